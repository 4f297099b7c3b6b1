'use strict';

/** Waiting tasks: higher priority first, then in the order they came. */
class Queue {
  constructor() {
    this.items = [];
  }

  get size() {
    return this.items.length;
  }

  push(item) {
    this.items.push(item);
    this.items.sort((a, b) => b.priority - a.priority);
  }

  shift() {
    return this.items.shift();
  }

  remove(item) {
    this.items.splice(this.items.indexOf(item), 1);
  }
}

module.exports = { Queue };
