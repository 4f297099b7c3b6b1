'use strict';

const test = require('node:test');
const assert = require('node:assert');
const qs = require('../lib');

const CYCLE = { name: 'RangeError', message: 'Cyclic object value' };
const plain = (value, options) => qs.stringify(value, { encode: false, ...options });
const copy = (value) => JSON.parse(JSON.stringify(value));

function random(seed) {
  let state = seed >>> 0;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

const OPTIONS = [
  {}, { arrayFormat: 'brackets' }, { arrayFormat: 'repeat' }, { allowDots: true }, { encode: true }, { encodeValuesOnly: true },
  { skipNulls: true }, { strictNullHandling: true }, { sort: (a, b) => (a < b ? 1 : -1) }, { filter: (prefix, value) => value },
  { allowEmptyArrays: true }, { encodeDotInKeys: true }, { charset: 'iso-8859-1' }, { delimiter: ';' },
];

test('the same object in several places', () => {
  const address = { city: 'Rome', zip: ['0', '1'] };
  assert.strictEqual(plain({ from: address, to: address }), 'from[city]=Rome&from[zip][0]=0&from[zip][1]=1&to[city]=Rome&to[zip][0]=0&to[zip][1]=1');
  assert.strictEqual(qs.stringify({ from: { a: address.zip }, to: address.zip }), 'from%5Ba%5D%5B0%5D=0&from%5Ba%5D%5B1%5D=1&to%5B0%5D=0&to%5B1%5D=1');
  const shared = { v: 1 };
  for (const value of [
    [shared, shared], { a: [shared, [shared, { b: shared }]], c: shared }, { a: { b: { c: shared } }, d: { e: shared }, f: shared },
    { a: shared, b: { a: shared, b: { a: shared, b: [shared, shared, shared] } } }, [[shared], [[shared]], [[[shared]]]],
  ]) {
    for (const options of OPTIONS) assert.strictEqual(plain(value, options), plain(copy(value), options));
  }
});

test('the same array, also an empty one, and the same empty object', () => {
  const list = [1, 2];
  const none = [];
  const bare = {};
  const value = { a: list, b: { c: list, d: none }, e: none, f: bare, g: [bare, bare, none, list] };
  for (const options of [...OPTIONS, { arrayFormat: 'comma' }, { arrayFormat: 'comma', commaRoundTrip: true }]) {
    if (options.arrayFormat === 'comma') delete value.g;
    assert.strictEqual(plain(value, options), plain(copy(value), options));
  }
});

test('the same date, buffer and function', () => {
  const date = new Date(0);
  const buffer = Buffer.from('b');
  assert.strictEqual(plain({ a: date, b: [date, date], c: buffer, d: { e: buffer } }),
    'a=1970-01-01T00:00:00.000Z&b[0]=1970-01-01T00:00:00.000Z&b[1]=1970-01-01T00:00:00.000Z&c=b&d[e]=b');
  assert.strictEqual(plain({ a: [date, date], b: [date] }, { arrayFormat: 'comma', serializeDate: (d) => `${d.getTime()}` }), 'a=0,0&b=0');
});

test('an object that has itself in it', () => {
  const self = { x: 1 };
  self.self = self;
  const list = [1];
  list.push(list);
  const inner = { deep: { deeper: [{ end: null }] } };
  inner.deep.deeper[0].end = inner.deep;
  for (const value of [self, { a: self }, [self], list, { a: list }, { a: { b: [0, inner] } }]) {
    for (const options of OPTIONS) assert.throws(() => plain(value, options), CYCLE);
  }
});

test('rings of every length, entered at every place', () => {
  for (let length = 1; length <= 12; length += 1) {
    const ring = Array.from({ length }, (_, i) => (i % 3 === 2 ? ['x'] : { name: `${i}` }));
    ring.forEach((node, i) => {
      const next = ring[(i + 1) % length];
      if (Array.isArray(node)) node.push(next);
      else node.next = next;
    });
    for (const node of ring) {
      assert.throws(() => plain(node), CYCLE);
      assert.throws(() => plain({ before: { some: 'thing' }, a: { b: { c: [node] } } }), CYCLE);
    }
  }
});

test('a cycle behind objects that were met before', () => {
  const shared = { v: { w: 1 } };
  const loop = { shared, again: shared };
  loop.back = { shared, loop };
  assert.throws(() => plain({ a: shared, b: shared, loop }), CYCLE);
  assert.throws(() => plain({ loop, a: shared }), CYCLE);
  assert.throws(() => plain({ a: shared.v, b: { shared, c: [shared, { loop }] } }), CYCLE);
  const late = { one: { two: { three: {} } } };
  late.one.two.three.up = late.one;
  assert.throws(() => plain({ a: late.one.two.three.up.two ? { v: 1 } : 0, b: late }), CYCLE);
});

test('random graphs', () => {
  const pick = random(6130);
  let cyclic = 0;
  let long = 0;
  for (let round = 0; round < 3000; round += 1) {
    const size = 2 + pick(7);
    const nodes = Array.from({ length: size }, (_, i) => (pick(3) ? { n: `${i}` } : [`${i}`]));
    const edges = nodes.map(() => []);
    for (let count = pick(2 * size); count > 0; count -= 1) {
      let from = pick(size);
      let to = pick(size);
      if (pick(4) && from >= to) [from, to] = [to, from];
      if (from === to && pick(3)) continue;
      edges[from].push(to);
      if (Array.isArray(nodes[from])) nodes[from].push(nodes[to]);
      else nodes[from][`e${edges[from].length}`] = nodes[to];
    }
    const state = [];
    const leadsIntoCycle = (i) => {
      if (state[i] === 'open') return true;
      if (state[i] === 'done') return false;
      state[i] = 'open';
      const found = edges[i].some(leadsIntoCycle);
      state[i] = 'done';
      return found;
    };
    const value = { top: nodes[0], more: [nodes[pick(size)], nodes[1]] };
    const roots = [value.top, ...value.more].map((node) => nodes.indexOf(node));
    if (roots.some(leadsIntoCycle)) {
      cyclic += 1;
      assert.throws(() => plain(value), CYCLE, `round ${round}`);
    } else {
      const wanted = plain(copy(value));
      if (wanted.length > 200) long += 1;
      assert.strictEqual(plain(value), wanted, `round ${round}`);
    }
  }
  assert.ok(cyclic > 500 && cyclic < 2500 && long > 200, `${cyclic} with cycles, ${long} long ones`);
});

test('filters by name', () => {
  const loop = { a: 1, b: { a: 2 } };
  loop.back = loop;
  loop.b.back = loop;
  assert.strictEqual(plain(loop, { filter: ['a', 'b'] }), 'a=1&b[a]=2');
  assert.throws(() => plain(loop, { filter: ['a', 'back'] }), CYCLE);
  assert.throws(() => plain(loop, { filter: ['b', 'back'] }), CYCLE);
  const shared = { a: { a: 3 }, c: 4 };
  assert.strictEqual(plain({ a: shared, b: shared, c: shared }, { filter: ['a', 'c'] }), 'a[a][a]=3&a[c]=4&c[a][a]=3&c[c]=4');
});

test('filter functions', () => {
  const shared = { v: [1, { w: 2 }] };
  const filter = (prefix, value) => (value === 'shared' ? shared : value);
  assert.strictEqual(plain({ a: 'shared', b: ['shared', 'shared'], c: shared }, { filter }), plain(copy({ a: shared, b: [shared, shared], c: shared })));
  const loop = { v: 1 };
  loop.back = loop;
  assert.strictEqual(plain({ a: loop, b: loop }, { filter: (prefix, value) => (prefix.endsWith('[back]') ? undefined : value) }), 'a[v]=1&b[v]=1');
  assert.strictEqual(plain({ a: loop, b: { c: loop } }, { filter: (prefix, value) => (value === loop ? 'cut' : value) }), 'a=cut&b[c]=cut');
  assert.throws(() => plain({ a: 1, b: loop }, { filter: (prefix, value) => value }), CYCLE);
});

test('names that are left out do not count', () => {
  const loop = { v: 1, none: null };
  Object.defineProperty(loop, 'hidden', { value: loop, enumerable: false });
  const child = Object.create({ inherited: loop });
  child.loop = loop;
  child.again = loop;
  assert.strictEqual(plain(child, { skipNulls: true }), 'loop[v]=1&again[v]=1');
});

test('again after an error', () => {
  const part = { v: 1 };
  const loop = { part };
  loop.back = loop;
  for (let i = 0; i < 3; i += 1) {
    assert.throws(() => plain({ part, loop }), CYCLE);
    assert.strictEqual(plain({ part, again: part }), 'part[v]=1&again[v]=1');
    delete loop.back;
    assert.strictEqual(plain({ loop, part }), 'loop[part][v]=1&part[v]=1');
    loop.back = [loop];
    const failing = { part, get bad() { throw new TypeError('bad'); } };
    assert.throws(() => plain({ a: failing }), TypeError);
  }
});

test('calls during a call', () => {
  const shared = { v: 1 };
  const seen = [];
  const filter = (prefix, value) => {
    if (value === shared) seen.push(plain({ shared, twice: [shared] }));
    return value;
  };
  assert.strictEqual(plain({ a: shared, b: { c: shared } }, { filter }), 'a[v]=1&b[c][v]=1');
  assert.deepStrictEqual(seen, Array(2).fill('shared[v]=1&twice[0][v]=1'));
  const date = new Date(0);
  const value = { d: date, e: shared };
  assert.strictEqual(plain(value, { serializeDate: () => plain({ value: shared }) }), 'd=value[v]=1&e[v]=1');
  assert.strictEqual(qs.stringify({ a: shared, b: shared }, { encoder: (s) => (s === 1 ? plain(shared) : s) }), 'a[v]=v=1&b[v]=v=1');
});

test('objects are left as they were', () => {
  const shared = Object.freeze({ v: 1, list: Object.freeze([1, 2]) });
  const value = Object.freeze({ a: shared, b: Object.freeze([shared, shared]), c: shared.list });
  assert.strictEqual(plain(value), plain(copy(value)));
  const open = { a: { v: 1 } };
  open.b = open.a;
  plain(open);
  assert.deepStrictEqual([Reflect.ownKeys(open), Reflect.ownKeys(open.a)], [['a', 'b'], ['v']]);
  const trapped = new Proxy({ v: 1 }, {
    set() { throw new Error('written to'); },
    defineProperty() { throw new Error('written to'); },
    deleteProperty() { throw new Error('written to'); },
  });
  assert.strictEqual(plain({ a: trapped, b: trapped }), 'a[v]=1&b[v]=1');
});

test('a thousand levels', () => {
  const bottom = { v: 1 };
  let value = bottom;
  for (let i = 0; i < 1000; i += 1) value = i % 2 ? { n: value } : [value];
  assert.strictEqual(plain({ value, bottom }), `value${'[n][0]'.repeat(500)}[v]=1&bottom[v]=1`);
  bottom.back = value;
  assert.throws(() => plain({ value }), CYCLE);
});
