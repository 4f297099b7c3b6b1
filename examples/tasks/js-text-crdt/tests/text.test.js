'use strict';

const test = require('node:test');
const assert = require('node:assert');
const { createReplica, wire, exchange, permutations } = require('./helpers');

test('local changes', () => {
  const a = createReplica('a');
  a.insert(0, 'held');
  a.insert(3, 'lo worl');
  assert.strictEqual(a.text(), 'hello world');
  a.delete(1, 3);
  assert.strictEqual(a.text(), 'ho world');
  assert.strictEqual(a.length, 8);
  a.insert(8, '!');
  a.insert(1, 'i, n');
  assert.strictEqual(a.text(), 'hi, no world!');
});

test('nothing to do, and out of range', () => {
  const a = createReplica('a');
  assert.strictEqual(a.insert(0, ''), null);
  a.insert(0, 'abc');
  assert.strictEqual(a.delete(1, 0), null);
  assert.strictEqual(a.delete(3, 0), null);
  for (const call of [
    () => a.insert(-1, 'x'), () => a.insert(4, 'x'), () => a.insert(1.5, 'x'), () => a.insert(NaN, 'x'), () => a.delete(2, 2),
    () => a.delete(4, 0), () => a.delete(0, -1), () => a.delete(0, 0.5), () => a.delete(-1, 1), () => a.anchor(4),
  ]) {
    assert.throws(call, RangeError);
  }
  assert.deepStrictEqual([a.text(), { ...a.version() }], ['abc', { a: 1 }]);
});

test('code points', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  a.insert(0, 'x😀y');
  assert.strictEqual(a.length, 3);
  a.insert(2, '🎈');
  a.delete(1, 1);
  assert.strictEqual(a.text(), 'x🎈y');
  a.insert(1, '\ud83d');
  a.insert(3, '\ude00');
  assert.strictEqual(a.length, 5);
  exchange(a, b);
  b.delete(1, 1);
  exchange(a, b);
  assert.strictEqual(a.text(), 'x🎈\ude00y');
});

test('concurrent insertions at one place, in every order of arrival', () => {
  for (const sites of [['a', 'b', 'c'], ['9', '10', 'B'], ['x@1', 'x', 'y']]) {
    const base = createReplica('base');
    base.insert(0, 'some words, more than ten characters');
    const operations = [];
    for (const site of sites) {
      const replica = createReplica(site);
      exchange(base, replica);
      operations.push(wire(replica.insert(4, `<${site}>`)), wire(replica.insert(0, '^')), wire(replica.delete(3, 4)));
    }
    let expected;
    for (const order of permutations(operations.slice(0, 7))) {
      const reader = createReplica('reader');
      for (const operation of base.missing({})) reader.apply(wire(operation));
      for (const operation of order) reader.apply(wire(operation));
      expected ??= reader.text();
      assert.strictEqual(reader.text(), expected);
      assert.strictEqual(reader.pending, 0);
    }
  }
});

test('what is typed together stays together', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  const c = createReplica('c');
  a.insert(0, '()');
  exchange(a, b, c);
  const type = (replica, word) => Array.from(word).forEach((char, i) => replica.insert(1 + i, char));
  type(a, 'anna');
  type(b, 'benjamin');
  c.insert(1, 'charlotte');
  exchange(a, b, c);
  for (const word of ['anna', 'benjamin', 'charlotte']) assert.ok(a.text().includes(word), a.text());
  assert.strictEqual(a.length, 23);
});

test('who has seen the other comes first', () => {
  // Whatever the names, and however many characters each has typed before.
  for (const [first, second] of [['a', 'z'], ['z', 'a'], ['9', '10'], ['10', '9']]) {
    const a = createReplica(first);
    const b = createReplica(second);
    a.insert(0, 'a long text with many identities, and |');
    exchange(a, b);
    const end = a.length;
    a.insert(end, 'FIRST');
    exchange(a, b);
    b.insert(end, 'SECOND');
    exchange(a, b);
    assert.ok(a.text().endsWith('|SECONDFIRST'), a.text());
    a.insert(end, 'x');
    exchange(a, b);
    assert.ok(a.text().endsWith('|xSECONDFIRST'), a.text());
  }
});

test('a run with another one behind it', () => {
  // c answers to b behind it; a has seen none of that.
  const a = createReplica('a');
  const b = createReplica('b');
  const c = createReplica('c');
  a.insert(0, '>');
  exchange(a, b, c);
  b.insert(1, 'bbb');
  exchange(b, c);
  c.insert(4, 'ccc');
  c.insert(2, '-');
  a.insert(1, 'a');
  const d = createReplica('d');
  exchange(a, d);
  exchange(a, b, c, d);
  assert.ok(['>ab-bbccc', '>b-bbccca'].includes(a.text()), a.text());
});

test('insertion behind a character that was deleted meanwhile', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  a.insert(0, 'abcdef');
  exchange(a, b);
  a.delete(1, 4);
  b.insert(3, 'X');
  exchange(a, b);
  assert.strictEqual(a.text(), 'aXf');
  b.insert(1, '1');
  a.insert(2, '2');
  exchange(a, b);
  assert.strictEqual(a.text(), 'a1X2f');
});

test('the same characters deleted twice', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  a.insert(0, 'abcdef');
  exchange(a, b);
  a.delete(0, 4);
  b.delete(2, 4);
  exchange(a, b);
  assert.strictEqual(a.text(), '');
  a.insert(0, 'x');
  exchange(a, b);
  assert.strictEqual(b.text(), 'x');
});

test('anchors', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  a.insert(0, '0123456789');
  exchange(a, b);
  const [start, three, end] = [a.anchor(0), a.anchor(3), a.anchor(10)].map(wire);
  b.insert(0, '>>');
  b.insert(5, '<');
  exchange(a, b);
  assert.strictEqual(b.text(), '>>012<3456789');
  for (const replica of [a, b]) assert.deepStrictEqual([start, three, end].map((x) => replica.position(x)), [0, 5, 13]);
  b.delete(3, 2);
  exchange(a, b);
  assert.deepStrictEqual([start, three, end].map((x) => a.position(x)), [0, 3, 11]);
  b.undo();
  exchange(a, b);
  assert.strictEqual(a.position(three), 5);
  b.delete(0, b.length);
  exchange(a, b);
  assert.deepStrictEqual([start, three, end].map((x) => a.position(x)), [0, 0, 0]);
  const unknown = wire((a.insert(0, 'new'), a.anchor(2)));
  assert.throws(() => b.position(unknown), RangeError);
});
