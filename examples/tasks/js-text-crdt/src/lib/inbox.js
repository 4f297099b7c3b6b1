'use strict';

/** Operations that arrived before what they depend on. */
class Inbox {
  constructor() {
    this.waiting = [];
  }

  get size() {
    return this.waiting.length;
  }

  add(operation) {
    this.waiting.push(operation);
  }

  /** Takes out an operation that can be carried out, if there is one. */
  take(version) {
    if (this.waiting.length > 0 && isReady(this.waiting[0], version)) return this.waiting.shift();
    return undefined;
  }

  list() {
    return this.waiting;
  }
}

function isReady({ seen }, version) {
  return Object.keys(seen).every((site) => (version[site] ?? 0) >= seen[site]);
}

module.exports = { Inbox };
