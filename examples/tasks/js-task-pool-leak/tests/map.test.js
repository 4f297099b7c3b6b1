'use strict';

const test = require('node:test');
const assert = require('node:assert');
const { createPool, deferred, settle, watch, listeners } = require('./helpers');

/** An async source that notes what is done to it. */
function trackedSource(count, { failAt = Infinity, closing = async () => {} } = {}) {
  const log = { read: 0, returned: 0, overlapping: 0 };
  let busy = 0;
  const source = {
    [Symbol.asyncIterator]() {
      return {
        async next() {
          busy += 1;
          if (busy > 1) log.overlapping += 1;
          await Promise.resolve();
          busy -= 1;
          if (log.read === failAt) throw new Error('source failed');
          if (log.read >= count) return { done: true, value: undefined };
          log.read += 1;
          return { done: false, value: log.read - 1 };
        },
        async return() {
          log.returned += 1;
          await closing();
          return { done: true, value: undefined };
        },
      };
    },
  };
  return { source, log };
}

/** A function for map that ends its calls when it is told to. */
function stepper() {
  const calls = [];
  const fn = (item, index, context) => {
    const call = { item, index, signal: context.signal, ...deferred() };
    calls[index] = call;
    return call.promise;
  };
  return { calls, fn };
}

test('results come in order, the source is read lazily', async () => {
  const pool = createPool({ concurrency: 3 });
  const { source, log } = trackedSource(6);
  const { calls, fn } = stepper();
  const iterator = pool.map(source, fn);
  await settle();
  assert.deepStrictEqual([log.read, calls.length], [0, 0], 'something happened before next()');
  const first = watch(iterator.next());
  await settle();
  assert.deepStrictEqual([log.read, calls.length], [3, 3]);
  calls[2].resolve('c');
  calls[1].resolve('b');
  await settle();
  assert.deepStrictEqual([log.read, first.settled], [3, false]);
  calls[0].resolve('a');
  await settle();
  assert.deepStrictEqual(first.value, { done: false, value: 'a' });
  assert.strictEqual(log.read, 4, 'one result was taken, so one more item may be read');
  assert.deepStrictEqual(await iterator.next(), { done: false, value: 'b' });
  await settle();
  assert.strictEqual(log.read, 5);
  assert.deepStrictEqual(await iterator.next(), { done: false, value: 'c' });
  await settle();
  const rest = [iterator.next(), iterator.next(), iterator.next(), iterator.next()];
  for (const i of [5, 4, 3]) calls[i].resolve(i);
  assert.deepStrictEqual(await Promise.all(rest), [
    { done: false, value: 3 }, { done: false, value: 4 }, { done: false, value: 5 }, { done: true, value: undefined },
  ]);
  assert.deepStrictEqual([log.returned, log.overlapping], [0, 0]);
  assert.deepStrictEqual(calls.map((c) => [c.item, c.index]), [0, 1, 2, 3, 4, 5].map((i) => [i, i]));
  assert.deepStrictEqual(await iterator.next(), { done: true, value: undefined });
});

test('several next() at once', async () => {
  const pool = createPool({ concurrency: 2 });
  const { source, log } = trackedSource(3);
  const iterator = pool.map(source, async (x) => x * 10);
  const all = await Promise.all([1, 2, 3, 4, 5].map(() => iterator.next()));
  assert.deepStrictEqual(all.map((r) => r.value), [0, 10, 20, undefined, undefined]);
  assert.deepStrictEqual(all.map((r) => r.done), [false, false, false, true, true]);
  assert.strictEqual(log.overlapping, 0);
});

test('plain iterables', async () => {
  const pool = createPool({ concurrency: 2 });
  const results = [];
  for await (const x of pool.map(new Set([3, 1, 2]), (x, i) => [x, i])) results.push(x);
  assert.deepStrictEqual(results, [[3, 0], [1, 1], [2, 2]]);
  const empty = pool.map([], () => assert.fail('called'));
  assert.deepStrictEqual(await empty.next(), { done: true, value: undefined });
  assert.strictEqual(empty[Symbol.asyncIterator](), empty);
});

test('an endless source and break', async () => {
  const pool = createPool({ concurrency: 4 });
  let closed = 0;
  let read = 0;
  function* numbers() {
    try {
      for (;;) {
        assert.ok(read < 1000, 'the source is read without end');
        yield read++;
      }
    } finally {
      closed += 1;
    }
  }
  const results = [];
  for await (const x of pool.map(numbers(), async (x) => x)) {
    results.push(x);
    if (x === 9) break;
  }
  assert.deepStrictEqual(results, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assert.strictEqual(closed, 1);
  assert.ok(read <= 15, `${read} items were read`);
  await settle();
  assert.deepStrictEqual([pool.running, pool.waiting], [0, 0]);
});

test('return waits for the running calls and for the source', async () => {
  const pool = createPool({ concurrency: 2 });
  const gate = deferred();
  const { source, log } = trackedSource(9, { closing: () => gate.promise });
  const { calls, fn } = stepper();
  const controller = new AbortController();
  const iterator = pool.map(source, fn, { signal: controller.signal });
  const first = iterator.next();
  await settle();
  calls[0].resolve('a');
  await first;
  await settle();
  const ended = watch(iterator.return('given'));
  await settle();
  assert.deepStrictEqual([calls[1].signal.aborted, calls[2].signal.aborted], [true, true]);
  calls[1].reject(new Error('stopped'));
  await settle();
  assert.strictEqual(ended.settled, false);
  calls[2].resolve('ignored');
  await settle();
  assert.deepStrictEqual([ended.settled, log.returned, log.read], [false, 1, 3]);
  gate.resolve();
  await settle();
  assert.deepStrictEqual(ended.value, { done: true, value: 'given' });
  assert.deepStrictEqual(await iterator.next(), { done: true, value: undefined });
  assert.deepStrictEqual(await iterator.return('again'), { done: true, value: 'again' });
  assert.deepStrictEqual([log.returned, pool.running, listeners(controller.signal)], [1, 0, 0]);
});

test('return before next', async () => {
  const pool = createPool({ concurrency: 2 });
  const controller = new AbortController();
  const { source, log } = trackedSource(9);
  const iterator = pool.map(source, () => assert.fail('called'), { signal: controller.signal });
  assert.deepStrictEqual(await iterator.return(5), { done: true, value: 5 });
  assert.deepStrictEqual(await iterator.next(), { done: true, value: undefined });
  assert.deepStrictEqual([log.read, listeners(controller.signal)], [0, 0]);
});

test('an error of fn', async () => {
  const pool = createPool({ concurrency: 3 });
  const { source, log } = trackedSource(9);
  const { calls, fn } = stepper();
  const iterator = pool.map(source, fn);
  const results = [1, 2, 3, 4].map(() => watch(iterator.next()));
  await settle();
  const error = new Error('fn failed');
  calls[1].reject(error);
  await settle();
  assert.deepStrictEqual([calls[0].signal.reason, calls[2].signal.reason], [error, error]);
  assert.strictEqual(results[1].settled, false);
  calls[0].resolve('a');
  await settle();
  assert.deepStrictEqual(results[0].value, { done: false, value: 'a' });
  assert.strictEqual(results[1].settled, false, 'the third call has not ended');
  calls[2].reject(new Error('another'));
  await settle();
  assert.strictEqual(results[1].error, error);
  assert.deepStrictEqual([results[2].value, results[3].value], Array(2).fill({ done: true, value: undefined }));
  assert.deepStrictEqual([log.returned, log.read, pool.running, pool.waiting], [1, 3, 0, 0]);
});

test('calls that wait for a slot are never made after an error', async () => {
  const pool = createPool({ concurrency: 2 });
  const hold = deferred();
  const other = pool.run(() => hold.promise);
  await settle();
  const { source, log } = trackedSource(9);
  const { calls, fn } = stepper();
  const iterator = pool.map(source, fn);
  const first = watch(iterator.next());
  await settle();
  assert.deepStrictEqual([calls.length, pool.waiting, log.read], [1, 1, 2]);
  calls[0].reject(new Error('first failed'));
  await settle();
  assert.match(String(first.error), /first failed/);
  assert.deepStrictEqual([calls.length, pool.waiting], [1, 0]);
  hold.resolve();
  await other;
  await settle();
  assert.deepStrictEqual([calls.length, pool.running, log.returned], [1, 0, 1]);
});

test('a call that throws', async () => {
  const pool = createPool({ concurrency: 2 });
  const iterator = pool.map([1, 2, 3], (x) => {
    if (x === 2) throw new Error('thrown');
    return x;
  });
  assert.deepStrictEqual(await iterator.next(), { done: false, value: 1 });
  await assert.rejects(iterator.next(), /thrown/);
  assert.deepStrictEqual(await iterator.next(), { done: true, value: undefined });
});

test('an error of the source', async () => {
  const pool = createPool({ concurrency: 3 });
  const { source, log } = trackedSource(9, { failAt: 2 });
  const { calls, fn } = stepper();
  const iterator = pool.map(source, fn);
  const results = [1, 2, 3, 4].map(() => watch(iterator.next()));
  await settle();
  assert.deepStrictEqual([calls.length, calls[0].signal.aborted], [2, true]);
  calls[1].resolve('b');
  await settle();
  assert.strictEqual(results[0].settled, false);
  calls[0].resolve('a');
  await settle();
  assert.deepStrictEqual(results.slice(0, 2).map((r) => r.value.value), ['a', 'b']);
  assert.match(String(results[2].error), /source failed/);
  assert.deepStrictEqual(results[3].value, { done: true, value: undefined });
  assert.strictEqual(log.returned, 0, 'a failed source is not closed');
});

test('an abort', async () => {
  const pool = createPool({ concurrency: 2 });
  const controller = new AbortController();
  const { source, log } = trackedSource(9);
  const { calls, fn } = stepper();
  const iterator = pool.map(source, fn, { signal: controller.signal });
  const results = [1, 2].map(() => watch(iterator.next()));
  await settle();
  calls[1].resolve('b');
  await settle();
  controller.abort('enough');
  await settle();
  assert.deepStrictEqual([calls[0].signal.reason, results[0].settled], ['enough', false]);
  calls[0].resolve('a');
  await settle();
  assert.deepStrictEqual([results[0].error, results[1].value], ['enough', { done: true, value: undefined }]);
  assert.deepStrictEqual([log.returned, pool.running, listeners(controller.signal)], [1, 0, 0]);
});

test('an abort while results wait to be taken', async () => {
  const pool = createPool({ concurrency: 2 });
  const controller = new AbortController();
  const { source, log } = trackedSource(9);
  const iterator = pool.map(source, async (x) => x, { signal: controller.signal });
  assert.strictEqual((await iterator.next()).value, 0);
  await settle();
  controller.abort('enough');
  await settle();
  await assert.rejects(iterator.next(), (error) => error === 'enough');
  assert.deepStrictEqual(await iterator.next(), { done: true, value: undefined });
  assert.deepStrictEqual([log.returned, listeners(controller.signal)], [1, 0]);
});

test('aborted before the first next', async () => {
  const pool = createPool({ concurrency: 2 });
  const iterator = pool.map([1], () => assert.fail('called'), { signal: AbortSignal.abort('early') });
  await assert.rejects(iterator.next(), (error) => error === 'early');
  assert.deepStrictEqual(await iterator.next(), { done: true, value: undefined });
});

test('no listener is left after a usual end', async () => {
  const pool = createPool({ concurrency: 2 });
  const controller = new AbortController();
  for (let i = 0; i < 30; i += 1) {
    for await (const x of pool.map([1, 2, 3], async (y) => y, { signal: controller.signal })) assert.ok(x);
  }
  await settle();
  assert.strictEqual(listeners(controller.signal), 0);
});

test('errors of closing the source', async () => {
  const pool = createPool({ concurrency: 1 });
  const closing = async () => { throw new Error('cannot close'); };
  const one = trackedSource(9, { closing });
  const iterator = pool.map(one.source, async (x) => x);
  await iterator.next();
  await assert.rejects(iterator.return(), /cannot close/);
  const two = trackedSource(9, { closing });
  const failing = pool.map(two.source, async () => { throw new Error('fn failed'); });
  await assert.rejects(failing.next(), /fn failed/);
  assert.deepStrictEqual([one.log.returned, two.log.returned], [1, 1]);
});

test('two maps share the slots', async () => {
  const pool = createPool({ concurrency: 2 });
  let active = 0;
  let most = 0;
  const fn = async (x) => {
    active += 1;
    most = Math.max(most, active);
    await settle();
    active -= 1;
    return x;
  };
  const collect = async (iterator) => {
    const all = [];
    for await (const x of iterator) all.push(x);
    return all;
  };
  const both = await Promise.all([collect(pool.map([1, 2, 3], fn)), collect(pool.map([4, 5, 6], fn))]);
  assert.deepStrictEqual([both, most], [[[1, 2, 3], [4, 5, 6]], 2]);
});

test('a closed pool', async () => {
  const pool = createPool({ concurrency: 2 });
  const { source, log } = trackedSource(3);
  const iterator = pool.map(source, async (x) => x);
  await pool.close();
  await assert.rejects(iterator.next(), /pool is closed/);
  assert.strictEqual(log.returned, 1);
});
