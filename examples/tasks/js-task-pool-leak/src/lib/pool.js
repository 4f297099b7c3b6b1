'use strict';

const { Queue } = require('./queue');
const { mapItems } = require('./map');

class Pool {
  constructor({ concurrency, timers = globalThis } = {}) {
    this.concurrency = concurrency;
    this.timers = timers;
    this.running = 0;
    this.queue = new Queue();
    this.closed = false;
    this.idlers = [];
  }

  get waiting() {
    return this.queue.size;
  }

  run(task, { signal, timeout, priority = 0 } = {}) {
    if (this.closed) throw new Error('pool is closed');
    return new Promise((resolve, reject) => {
      const controller = new AbortController();
      if (signal) {
        signal.addEventListener('abort', () => {
          controller.abort(signal.reason);
          reject(signal.reason);
        });
      }
      if (timeout !== undefined) {
        this.timers.setTimeout(() => {
          const error = new Error('the task takes too long');
          error.name = 'TimeoutError';
          controller.abort(error);
          reject(error);
        }, timeout);
      }
      this.queue.push({ task, priority, controller, resolve, reject });
      this.next();
    });
  }

  next() {
    if (this.running >= this.concurrency || this.queue.size === 0) return;
    const { task, controller, resolve, reject } = this.queue.shift();
    this.running += 1;
    const result = task({ signal: controller.signal });
    result.then(resolve, reject);
    result.finally(() => {
      this.running -= 1;
      this.next();
      if (this.running === 0) this.idlers.forEach((idler) => idler());
    });
  }

  map(source, fn, options) {
    return mapItems(this, source, fn, options);
  }

  idle() {
    if (this.running === 0) return Promise.resolve();
    return new Promise((resolve) => this.idlers.push(resolve));
  }

  close() {
    this.closed = true;
    return this.idle();
  }
}

module.exports = { Pool };
