'use strict';

/** Runs fn for the items of source and yields the results in order. */
async function* mapItems(pool, source, fn, { signal } = {}) {
  const pending = [];
  let index = 0;
  for await (const item of source) {
    const i = index++;
    pending.push(pool.run((context) => fn(item, i, context), { signal }));
  }
  for (const result of pending) {
    yield await result;
  }
}

module.exports = { mapItems };
