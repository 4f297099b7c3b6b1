'use strict';

const test = require('node:test');
const assert = require('node:assert');
const { createPool, settle, fakeTimers, controlled, watch, listeners } = require('./helpers');

test('concurrency is checked', () => {
  for (const concurrency of [0, -1, 1.5, NaN, Infinity, '2', undefined]) {
    assert.throws(() => createPool({ concurrency }), RangeError, String(concurrency));
  }
});

test('limit and order of starting', async () => {
  const pool = createPool({ concurrency: 2 });
  const { calls, task, names, get } = controlled();
  const results = ['a', 'b', 'c', 'd'].map((name) => pool.run(task(name)));
  assert.deepStrictEqual(names(), [], 'a task was called before run returned');
  await settle();
  assert.deepStrictEqual(names(), ['a', 'b']);
  assert.deepStrictEqual([pool.running, pool.waiting], [2, 2]);
  get('b').resolve(2);
  await settle();
  assert.deepStrictEqual(names(), ['a', 'b', 'c']);
  get('a').resolve(1);
  await settle();
  get('c').resolve(3);
  get('d').resolve(4);
  assert.deepStrictEqual(await Promise.all(results), [1, 2, 3, 4]);
  await settle();
  assert.deepStrictEqual([pool.running, pool.waiting, calls.length], [0, 0, 4]);
});

test('priorities', async () => {
  const pool = createPool({ concurrency: 1 });
  const { task, names, calls } = controlled();
  pool.run(task('first'));
  await settle();
  for (const [name, priority] of [['a', 0], ['b', 5], ['c', undefined], ['d', -1], ['e', 5], ['f', 1]]) {
    pool.run(task(name), { priority });
  }
  for (let i = 0; i < 7; i += 1) {
    calls[i].resolve();
    await settle();
  }
  assert.deepStrictEqual(names(), ['first', 'b', 'e', 'f', 'a', 'c', 'd']);
});

test('plain values, throws and thenables', async () => {
  const pool = createPool({ concurrency: 1 });
  assert.strictEqual(await pool.run(() => 7), 7);
  await assert.rejects(pool.run(() => { throw new Error('sync'); }), /sync/);
  await assert.rejects(pool.run(async () => { throw new Error('async'); }), /async/);
  assert.strictEqual(await pool.run(() => ({ then: (resolve) => resolve(8) })), 8);
  await assert.rejects(pool.run(() => ({ then: (_, reject) => reject(new Error('thenable')) })), /thenable/);
  await assert.rejects(pool.run(() => ({ get then() { throw new Error('getter'); } })), /getter/);
  await assert.rejects(pool.run(undefined), TypeError);
  assert.strictEqual(await pool.run(() => 9), 9);
  await settle();
  assert.deepStrictEqual([pool.running, pool.waiting], [0, 0]);
});

test('aborted before', async () => {
  const pool = createPool({ concurrency: 1 });
  const { task, names } = controlled();
  const signal = AbortSignal.abort('early');
  const result = watch(pool.run(task('a'), { signal, timeout: 5 }));
  await settle();
  assert.deepStrictEqual([result.error, names(), pool.running, pool.waiting], ['early', [], 0, 0]);
  assert.strictEqual(listeners(signal), 0);
});

test('aborted while waiting', async () => {
  const timers = fakeTimers();
  const pool = createPool({ concurrency: 1, timers });
  const { task, names, get } = controlled();
  const controller = new AbortController();
  const first = pool.run(task('first'));
  const results = ['a', 'b', 'c'].map((name) =>
    watch(pool.run(task(name), name === 'b' ? { signal: controller.signal, timeout: 9 } : {})));
  await settle();
  assert.strictEqual(timers.active.size, 0, 'a task that waits has a timer');
  controller.abort('no longer');
  assert.strictEqual(pool.waiting, 2);
  await settle();
  assert.strictEqual(results[1].error, 'no longer');
  assert.strictEqual(listeners(controller.signal), 0);
  get('first').resolve(1);
  await first;
  await settle();
  get('a').resolve(1);
  await settle();
  assert.deepStrictEqual(names(), ['first', 'a', 'c']);
  get('c').resolve(1);
  await settle();
  assert.deepStrictEqual([pool.running, pool.waiting], [0, 0]);
});

test('aborted between run and the call', async () => {
  const pool = createPool({ concurrency: 1 });
  const { task, names } = controlled();
  const controller = new AbortController();
  const result = watch(pool.run(task('a'), { signal: controller.signal }));
  controller.abort('at once');
  await settle();
  assert.deepStrictEqual([names(), result.error, pool.running, pool.waiting], [[], 'at once', 0, 0]);
});

test('aborted while running', async () => {
  const pool = createPool({ concurrency: 1 });
  const { task, names, get } = controlled();
  const controller = new AbortController();
  const a = watch(pool.run(task('a'), { signal: controller.signal }));
  const b = watch(pool.run(task('b')));
  await settle();
  assert.strictEqual(get('a').signal.aborted, false);
  assert.notStrictEqual(get('a').signal, controller.signal);
  const reason = { why: 'stop' };
  controller.abort(reason);
  assert.strictEqual(get('a').signal.reason, reason);
  await settle();
  assert.strictEqual(a.error, reason);
  assert.strictEqual(listeners(controller.signal), 0);
  assert.deepStrictEqual([names(), pool.running, pool.waiting], [['a'], 1, 1], 'the slot is free too early');
  get('a').reject(new Error('late')); // must not be unhandled
  await settle();
  assert.deepStrictEqual(names(), ['a', 'b']);
  get('b').resolve('B');
  await settle();
  assert.deepStrictEqual([b.value, pool.running], ['B', 0]);
});

test('timeout', async () => {
  const timers = fakeTimers();
  const pool = createPool({ concurrency: 1, timers });
  const { task, names, get } = controlled();
  const controller = new AbortController();
  const a = watch(pool.run(task('a'), { timeout: 100, signal: controller.signal }));
  const b = watch(pool.run(task('b'), { timeout: 200 }));
  await settle();
  assert.deepStrictEqual([...timers.active.values()].map((t) => t.delay), [100]);
  timers.fire(100);
  await settle();
  assert.ok(a.error instanceof Error && a.error.name === 'TimeoutError', String(a.error));
  assert.strictEqual(get('a').signal.reason, a.error);
  assert.strictEqual(listeners(controller.signal), 0);
  assert.deepStrictEqual(names(), ['a']);
  controller.abort('too late to matter');
  get('a').resolve('dropped');
  await settle();
  assert.deepStrictEqual([...timers.active.values()].map((t) => t.delay), [200]);
  get('b').resolve('B');
  await settle();
  assert.strictEqual(b.value, 'B');
  assert.strictEqual(timers.active.size, 0, 'a timer is left');
});

test('timeout 0 is a timeout, and an abort clears the timer', async () => {
  const timers = fakeTimers();
  const pool = createPool({ concurrency: 2, timers });
  const { task, get } = controlled();
  const controller = new AbortController();
  const a = watch(pool.run(task('a'), { timeout: 0 }));
  const b = watch(pool.run(task('b'), { timeout: 50, signal: controller.signal }));
  await settle();
  timers.fire(0);
  controller.abort('x');
  await settle();
  assert.deepStrictEqual([a.error?.name, b.error], ['TimeoutError', 'x']);
  assert.strictEqual(timers.active.size, 0);
  get('a').resolve();
  get('b').resolve();
  await settle();
  assert.strictEqual(pool.running, 0);
});

test('a signal shared by many tasks', async () => {
  const pool = createPool({ concurrency: 3 });
  const controller = new AbortController();
  const warnings = [];
  const onWarning = (warning) => warnings.push(warning.name);
  process.on('warning', onWarning);
  for (let i = 0; i < 60; i += 1) {
    const ending = i % 3 === 0 ? () => i : i % 3 === 1 ? async () => i : async () => { throw new Error('x'); };
    await pool.run(ending, { signal: controller.signal }).catch(() => {});
  }
  await settle();
  assert.strictEqual(listeners(controller.signal), 0);
  process.off('warning', onWarning);
  assert.deepStrictEqual(warnings, []);
});

test('the own signal is not aborted after the end', async () => {
  const pool = createPool({ concurrency: 1 });
  const controller = new AbortController();
  let own;
  await pool.run(async ({ signal }) => { own = signal; }, { signal: controller.signal });
  controller.abort();
  await settle();
  assert.strictEqual(own.aborted, false);
});

test('a rejection is unhandled once', async () => {
  const seen = [];
  const onUnhandled = (error) => seen.push(error.message);
  // In this test they are for nobody else, such as the test runner.
  const others = process.listeners('unhandledRejection');
  process.removeAllListeners('unhandledRejection');
  process.on('unhandledRejection', onUnhandled);
  const pool = createPool({ concurrency: 1 });
  pool.run(async () => { throw new Error('nobody cares'); });
  await settle();
  process.off('unhandledRejection', onUnhandled);
  for (const listener of others) process.on('unhandledRejection', listener);
  assert.deepStrictEqual(seen, ['nobody cares']);
});

test('tasks may use the pool', async () => {
  const pool = createPool({ concurrency: 2 });
  const result = await pool.run(async () => (await pool.run(async () => 20)) + 1);
  assert.strictEqual(result, 21);
});

test('idle and close', async () => {
  const pool = createPool({ concurrency: 1 });
  await pool.idle();
  const { task, get } = controlled();
  const controller = new AbortController();
  pool.run(task('a'), { signal: controller.signal }).catch(() => {});
  const early = watch(pool.idle());
  await settle();
  const b = pool.run(task('b'));
  const idle = watch(pool.idle());
  const closed = watch(pool.close());
  const refused = pool.run(task('c'));
  await assert.rejects(refused, /pool is closed/);
  controller.abort('x');
  await settle();
  assert.deepStrictEqual([early.settled, idle.settled, closed.settled], [false, false, false]);
  get('a').resolve();
  await settle();
  assert.deepStrictEqual([early.settled, idle.settled, closed.settled], [false, false, false]);
  get('b').resolve('B');
  assert.strictEqual(await b, 'B');
  await settle();
  assert.deepStrictEqual([early.settled, idle.settled, closed.settled], [true, true, true]);
  await pool.close();
  await assert.rejects(pool.run(task('d')), /pool is closed/);
});

test('idle when the last waiting task is aborted', async () => {
  const pool = createPool({ concurrency: 1 });
  const controller = new AbortController();
  pool.run(async () => {}, { signal: controller.signal }).catch(() => {});
  const idle = watch(pool.idle());
  controller.abort('x');
  await settle();
  assert.deepStrictEqual([idle.settled, pool.running, pool.waiting], [true, 0, 0]);
});
