'use strict';

const test = require('node:test');
const assert = require('node:assert');
const { createReplica, loadReplica, wire, exchange, random, patched, permutations } = require('./helpers');

test('every order, with repetitions', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  const operations = [];
  const make = (replica, other, operation) => {
    operations.push(wire(operation));
    other.apply(wire(operation));
  };
  make(a, b, a.insert(0, 'abc'));
  make(b, a, b.insert(3, 'def'));
  make(a, b, a.delete(2, 2));
  make(a, b, a.undo());
  make(b, a, b.insert(1, 'x'));
  make(b, a, b.undo());
  for (const order of permutations(operations)) {
    const c = createReplica('c');
    order.forEach((operation, i) => {
      c.apply(wire(operation));
      c.apply(wire(order[Math.floor(i / 2)]));
      const carriedOut = Object.values(c.version()).reduce((x, y) => x + y, 0);
      assert.strictEqual(c.pending, i + 1 - carriedOut);
    });
    assert.strictEqual(c.text(), 'abcdef');
    assert.deepStrictEqual({ ...c.version() }, { a: 3, b: 3 });
    assert.strictEqual(c.pending, 0);
  }
});

test('an operation waits for all that its maker had seen', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  const c = createReplica('c');
  const one = wire(a.insert(0, 'one'));
  b.apply(one);
  const two = wire(b.insert(0, 'two')); // stands at the start, needs no character of a
  c.apply(two);
  assert.deepStrictEqual([c.text(), c.pending, { ...c.version() }], ['', 1, {}]);
  c.apply(one);
  assert.deepStrictEqual([c.text(), c.pending], ['twoone', 0]);
});

test('operations are nobody else\'s objects', () => {
  const freeze = (value) => {
    if (value && typeof value === 'object') Object.values(Object.freeze(value)).forEach(freeze);
    return value;
  };
  const spoil = (value) => {
    for (const key of Object.keys(value)) {
      if (value[key] && typeof value[key] === 'object') spoil(value[key]);
      else value[key] = 'spoilt';
    }
    if (Array.isArray(value)) value.length = 0;
  };
  const a = createReplica('a');
  const b = createReplica('b');
  const c = createReplica('c');
  const operations = [];
  for (const make of [() => a.insert(0, 'hello'), () => a.delete(1, 2), () => a.undo(), () => a.redo(), () => a.insert(1, 'x')]) {
    const operation = make();
    operations.push(wire(operation));
    spoil(operation);
  }
  for (const operation of operations) b.apply(freeze(wire(operation)));
  for (const operation of [...operations].reverse()) {
    const mine = wire(operation);
    c.apply(mine);
    spoil(mine);
  }
  spoil(a.missing({}));
  spoil(a.snapshot());
  const version = a.version();
  version.a = 99;
  version.z = 1;
  assert.deepStrictEqual([a.text(), b.text(), c.text()], ['hxlo', 'hxlo', 'hxlo']);
  const d = createReplica('d');
  exchange(a, b, c, d);
});

test('its own operations come back', () => {
  const a = createReplica('a');
  const operations = [a.insert(0, 'abc'), a.delete(0, 1), a.insert(2, 'd')].map(wire);
  for (const operation of operations) a.apply(operation);
  assert.deepStrictEqual([a.text(), a.pending, { ...a.version() }], ['bcd', 0, { a: 3 }]);
  // A replica that was lost and begins anew under its name gets its work back.
  const again = createReplica('a');
  for (const operation of [...operations].reverse()) again.apply(operation);
  assert.strictEqual(again.text(), 'bcd');
  again.undo();
  assert.strictEqual(again.text(), 'bc');
  const b = createReplica('b');
  exchange(again, b);
});

test('undo and redo', () => {
  const a = createReplica('a');
  assert.deepStrictEqual([a.undo(), a.redo()], [null, null]);
  a.insert(0, 'abc');
  a.insert(3, 'def');
  a.delete(1, 4);
  assert.strictEqual(a.text(), 'af');
  const texts = [];
  while (a.undo() !== null) texts.push(a.text());
  assert.deepStrictEqual(texts, ['abcdef', 'abc', '']);
  while (a.redo() !== null) texts.push(a.text());
  assert.deepStrictEqual(texts.slice(3), ['abc', 'abcdef', 'af']);
  a.undo();
  a.undo();
  a.insert(3, 'X');
  assert.strictEqual(a.redo(), null);
  a.undo();
  a.undo();
  assert.strictEqual(a.text(), '');
  a.redo();
  a.redo();
  assert.deepStrictEqual([a.text(), a.redo()], ['abcX', null]);
});

test('undo of an insertion that others typed into', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  a.insert(0, 'hello');
  exchange(a, b);
  b.insert(2, '-b-');
  b.delete(0, 1);
  exchange(a, b);
  assert.strictEqual(a.text(), 'e-b-llo');
  a.undo();
  exchange(a, b);
  assert.strictEqual(b.text(), '-b-');
  a.redo();
  exchange(a, b);
  assert.strictEqual(b.text(), 'e-b-llo', 'redo shows what b has deleted');
  b.undo();
  exchange(a, b);
  assert.strictEqual(a.text(), 'he-b-llo');
  assert.strictEqual(b.undo() !== null && b.undo(), null);
  exchange(a, b);
  assert.strictEqual(a.text(), 'hello');
});

test('undo of a deletion that others have made as well', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  const c = createReplica('c');
  a.insert(0, '0123456789');
  exchange(a, b, c);
  a.delete(2, 5);
  b.delete(4, 5);
  c.delete(6, 1);
  exchange(a, b, c);
  assert.strictEqual(a.text(), '019');
  a.undo();
  exchange(a, b, c);
  assert.strictEqual(a.text(), '01239');
  b.undo();
  exchange(a, b, c);
  assert.strictEqual(a.text(), '012345789');
  a.redo();
  c.undo();
  exchange(a, b, c);
  assert.strictEqual(a.text(), '01789');
  a.undo();
  a.undo();
  b.redo();
  exchange(a, b, c);
  assert.strictEqual(a.text(), '');
  a.redo();
  exchange(a, b, c);
  assert.strictEqual(a.text(), '01239');
});

test('deletion of text whose insertion is undone at the same time', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  a.insert(0, 'abc');
  exchange(a, b);
  a.undo();
  b.delete(1, 1);
  b.insert(1, 'x');
  exchange(a, b);
  assert.strictEqual(a.text(), 'x');
  a.redo();
  exchange(a, b);
  assert.strictEqual(a.text(), 'axc');
});

test('version and missing', () => {
  const a = createReplica('a');
  const b = createReplica('__proto__');
  a.insert(0, 'x');
  exchange(a, b);
  b.insert(1, 'y');
  b.insert(2, 'constructor');
  exchange(a, b);
  assert.deepStrictEqual(Object.entries(a.version()).sort(), [['__proto__', 2], ['a', 1]]);
  assert.strictEqual(a.missing(a.version()).length, 0);
  assert.strictEqual(a.missing({}).length, 3);
  assert.strictEqual(a.missing({ a: 1 }).length, 2);
  const c = createReplica('constructor');
  for (const operation of a.missing(c.version())) {
    c.apply(wire(operation));
    assert.strictEqual(c.pending, 0, 'not in an order in which they can be applied at once');
  }
  c.insert(0, 'z');
  exchange(a, b, c);
  assert.strictEqual(a.text(), 'zxyconstructor');
});

test('snapshots', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  a.insert(0, 'hello');
  exchange(a, b);
  b.insert(5, ' world');
  const late = [b.insert(11, '!'), b.insert(12, '?')].map(wire);
  a.apply(late[1]);
  a.delete(0, 1);
  a.insert(0, 'J');
  a.undo();
  const stored = wire(a.snapshot());
  const again = loadReplica('a', stored);
  const other = loadReplica('c', stored);
  for (const replica of [again, other]) {
    assert.deepStrictEqual([replica.text(), replica.pending, { ...replica.version() }], ['ello', 1, { a: 4 }]);
    assert.deepStrictEqual(wire(replica.missing({})), wire(a.missing({})));
  }
  assert.deepStrictEqual([other.undo(), other.redo()], [null, null]);
  again.redo();
  assert.strictEqual(again.text(), 'Jello');
  again.undo();
  again.undo();
  assert.strictEqual(again.text(), 'hello');
  again.insert(5, ',');
  other.insert(0, 'C');
  exchange(again, other, b);
  assert.strictEqual(b.text().replace('C', ''), b.text().includes(', world') ? 'hello, world!?' : 'hello world!?,');
  again.insert(0, 'next');
  exchange(again, other, b);
});

test('changes as patches', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  let mirror = '';
  let calls = [];
  const end = b.onChange((patches, origin) => {
    mirror = patched(mirror, patches);
    assert.strictEqual(mirror, b.text());
    calls.push(origin);
  });
  b.insert(0, 'a😀b');
  b.delete(1, 1);
  b.undo();
  exchange(a, b);
  a.insert(2, '🎈x🎈');
  a.delete(1, 3);
  const both = wire(a.missing(b.version()));
  b.apply(both[1]);
  assert.deepStrictEqual(calls, ['local', 'local', 'local']);
  b.apply(both[0]);
  assert.deepStrictEqual(calls.slice(3), ['remote', 'remote']);
  calls = [];
  a.delete(0, 1);
  b.delete(0, 1);
  exchange(a, b); // is deleted already
  a.undo(); // stays deleted
  exchange(a, b);
  assert.deepStrictEqual(calls, ['local']);
  end();
  b.insert(0, 'unheard');
  assert.deepStrictEqual(calls, ['local']);
});

test('one listener registered twice', () => {
  const a = createReplica('a');
  let calls = 0;
  const listener = () => { calls += 1; };
  const one = a.onChange(listener);
  a.onChange(listener);
  a.insert(0, 'x');
  assert.strictEqual(calls, 2);
  one();
  one();
  a.insert(0, 'x');
  assert.strictEqual(calls, 3);
});

test('a listener that changes the replica', () => {
  const a = createReplica('a');
  const b = createReplica('b');
  const sent = [];
  // Like an editor that expands smileys, while a heap of operations comes in.
  let busy = false;
  b.onChange(() => {
    if (busy) return;
    busy = true;
    for (;;) {
      const at = b.text().indexOf(':)');
      if (at < 0) break;
      sent.push(wire(b.delete(at, 2)));
      sent.push(wire(b.insert(at, '☺')));
    }
    busy = false;
  });
  const operations = [a.insert(0, 'one :) '), a.insert(7, 'two :) '), a.insert(14, 'three'), a.delete(0, 4)].map(wire);
  for (const operation of operations.reverse()) b.apply(operation);
  assert.strictEqual(b.text(), '☺ two ☺ three');
  assert.strictEqual(b.pending, 0);
  for (const operation of sent.reverse()) a.apply(operation);
  exchange(a, b);
});

test('many replicas at random', () => {
  for (let seed = 1; seed <= 40; seed += 1) {
    const next = random(seed);
    const sites = ['a', 'b', '10', '9', 'ä'].slice(0, 2 + next(4));
    const all = sites.map((site) => createReplica(site));
    const mirrors = sites.map(() => '');
    const listen = (i) => all[i].onChange((patches) => { mirrors[i] = patched(mirrors[i], patches); });
    all.forEach((_, i) => listen(i));
    const queues = sites.map(() => []); // what is on its way to each
    for (let step = 0; step < 160; step += 1) {
      const i = next(all.length);
      const replica = all[i];
      const { length } = replica;
      let operation = null;
      switch (next(9)) {
        case 0: case 1: case 2: operation = replica.insert(next(length + 1), ['x', 'yy', '😀', 'abc def'][next(4)]); break;
        case 3: { const at = next(length + 1); operation = replica.delete(at, next(Math.min(6, length - at + 1))); break; }
        case 4: operation = replica.undo(); break;
        case 5: operation = replica.redo(); break;
        case 6: {
          if (next(6) === 0) {
            all[i] = loadReplica(sites[i], wire(replica.snapshot()));
            mirrors[i] = all[i].text();
            listen(i);
            assert.strictEqual(all[i].text(), replica.text());
            assert.strictEqual(all[i].pending, replica.pending);
          }
          break;
        }
        default: {
          // Anything that is on its way, in any order, now and then twice.
          const queue = queues[i];
          for (let n = next(6); n > 0 && queue.length > 0; n -= 1) {
            const at = next(queue.length);
            all[i].apply(wire(queue[at]));
            if (next(5) > 0) queue.splice(at, 1);
          }
        }
      }
      if (operation) for (const queue of queues) queue.push(wire(operation));
      assert.strictEqual(mirrors[i], all[i].text(), `seed ${seed}, step ${step}: the patches lead to another text`);
    }
    queues.forEach((queue, i) => { for (const operation of queue) all[i].apply(wire(operation)); });
    exchange(...all);
    const reader = createReplica('reader');
    const everything = all[0].missing({});
    for (let n = everything.length; n > 0; n -= 1) reader.apply(wire(everything.splice(next(n), 1)[0]));
    assert.strictEqual(reader.text(), all[0].text(), `seed ${seed}`);
  }
});
