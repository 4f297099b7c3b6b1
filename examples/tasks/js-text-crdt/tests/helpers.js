'use strict';

const assert = require('node:assert');
const path = require('node:path');

const { createReplica, loadReplica } = require(path.resolve('src/lib'));

const wire = (value) => JSON.parse(JSON.stringify(value));

/** Gives each replica what the others have. */
function exchange(...replicas) {
  for (const from of replicas) {
    for (const to of replicas) {
      if (from !== to) for (const operation of from.missing(to.version())) to.apply(wire(operation));
    }
  }
  for (const replica of replicas) {
    assert.strictEqual(replica.text(), replicas[0].text(), 'the replicas differ');
    assert.deepStrictEqual({ ...replica.version() }, { ...replicas[0].version() });
    assert.strictEqual(replica.pending, 0);
  }
}

function random(seed) {
  let state = seed >>> 0;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

function patched(text, patches) {
  let chars = Array.from(text);
  for (const { index, remove, insert } of patches) {
    assert.ok(index >= 0 && remove >= 0 && index + remove <= chars.length, `a patch beyond the text: ${JSON.stringify(patches)}`);
    chars = [...chars.slice(0, index), ...Array.from(insert), ...chars.slice(index + remove)];
  }
  return chars.join('');
}

/** All orders of a list. */
function* permutations(list) {
  if (list.length < 2) yield list;
  for (let i = 0; i < list.length; i += 1) {
    for (const rest of permutations([...list.slice(0, i), ...list.slice(i + 1)])) yield [list[i], ...rest];
  }
}

module.exports = { createReplica, loadReplica, wire, exchange, random, patched, permutations };
