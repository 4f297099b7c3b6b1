'use strict';

const path = require('node:path');
const { getEventListeners } = require('node:events');

const { createPool } = require(path.resolve('src/lib'));

function deferred() {
  const d = {};
  d.promise = new Promise((resolve, reject) => Object.assign(d, { resolve, reject }));
  return d;
}

/** Lets everything happen that can happen without anything from outside. */
async function settle() {
  for (let i = 0; i < 30; i += 1) await new Promise((resolve) => setImmediate(resolve));
}

/** Timers that run when they are told to. */
function fakeTimers() {
  const active = new Map();
  let last = 0;
  return {
    active,
    setTimeout(callback, delay) {
      last += 1;
      active.set(last, { callback, delay });
      return last;
    },
    clearTimeout(id) {
      active.delete(id);
    },
    fire(delay) {
      for (const [id, timer] of active) {
        if (timer.delay === delay) {
          active.delete(id);
          timer.callback();
        }
      }
    },
  };
}

/** A function for tasks that notes its calls and ends when it is told to. */
function controlled() {
  const calls = [];
  const task = (name) => (context) => {
    const call = { name, ...deferred(), signal: context.signal };
    calls.push(call);
    return call.promise;
  };
  return { calls, task, names: () => calls.map((call) => call.name), get: (name) => calls.find((c) => c.name === name) };
}

/** What has become of a promise so far. */
function watch(promise) {
  const state = { settled: false };
  promise.then(
    (value) => Object.assign(state, { settled: true, value }),
    (error) => Object.assign(state, { settled: true, error }),
  );
  return state;
}

const listeners = (signal) => getEventListeners(signal, 'abort').length;

module.exports = { createPool, deferred, settle, fakeTimers, controlled, watch, listeners };
