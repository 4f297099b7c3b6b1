#!/bin/sh
# Lamport identities, causal delivery, and visibility that counts deletions.
set -eu
cat > src/lib/sequence.js <<'E'
'use strict';

/** Identities are [counter, site]; later ones are greater. */
function isGreater(a, b) {
  return a[0] !== b[0] ? a[0] > b[0] : a[1] > b[1];
}

/** The characters in their order, hidden ones included. */
class Sequence {
  constructor() {
    this.items = [];
    this.byId = new Map();
  }

  find(id) {
    return this.byId.get(JSON.stringify(id));
  }

  /** Puts a character behind another one (undefined: at the start). */
  place(item, after) {
    let at = after === undefined ? 0 : this.items.indexOf(after) + 1;
    // Greater identities here are concurrent insertions that come first, with all
    // that was inserted behind them.
    while (at < this.items.length && isGreater(this.items[at].id, item.id)) at += 1;
    this.items.splice(at, 0, item);
    this.byId.set(JSON.stringify(item.id), item);
  }

  visible() {
    return this.items.filter((item) => item.shown);
  }

  text() {
    return this.visible().map((item) => item.char).join('');
  }

  /** The number of visible characters in front of a character. */
  indexOf(item) {
    let index = 0;
    for (const other of this.items) {
      if (other === item) return index;
      if (other.shown) index += 1;
    }
    return index;
  }
}

module.exports = { Sequence };
E
cat > src/lib/inbox.js <<'E'
'use strict';

/** Operations that arrived before what they depend on. */
class Inbox {
  constructor() {
    this.waiting = new Map();
  }

  get size() {
    return this.waiting.size;
  }

  add(operation) {
    const key = JSON.stringify([operation.site, operation.seq]);
    if (!this.waiting.has(key)) this.waiting.set(key, operation);
  }

  /** Takes out an operation that can be carried out, if there is one. */
  take(version) {
    for (const [key, operation] of this.waiting) {
      if (isReady(operation, version)) {
        this.waiting.delete(key);
        return operation;
      }
    }
    return undefined;
  }

  list() {
    return [...this.waiting.values()];
  }
}

function isReady({ site, seq, seen }, version) {
  return seq === (version.get(site) ?? 0) + 1 && seen.every(([other, n]) => (version.get(other) ?? 0) >= n);
}

module.exports = { Inbox };
E
cat > src/lib/replica.js <<'E'
'use strict';

const { Inbox } = require('./inbox');
const { Sequence } = require('./sequence');

const copy = (value) => JSON.parse(JSON.stringify(value));

class Replica {
  constructor(site) {
    this.site = site;
    this.counter = 0; // the greatest of all identities seen
    this.done = new Map(); // operations carried out, by site
    this.log = [];
    this.effects = new Map(); // items of an operation, by site and number
    this.sequence = new Sequence();
    this.inbox = new Inbox();
    this.undoable = []; // numbers of own operations
    this.redoable = [];
    this.listeners = new Set();
    this.flushing = false;
  }

  static load(site, snapshot) {
    const replica = new Replica(site);
    const { log, waiting } = copy(snapshot);
    for (const operation of log) replica.carryOut(operation, 'remote');
    for (const operation of waiting) replica.inbox.add(operation);
    return replica;
  }

  snapshot() {
    return copy({ log: this.log, waiting: this.inbox.list() });
  }

  text() {
    return this.sequence.text();
  }

  get length() {
    return this.sequence.visible().length;
  }

  get pending() {
    return this.inbox.size;
  }

  insert(index, text) {
    const visible = this.sequence.visible();
    checkRange(index, 0, visible.length);
    if (text === '') return null;
    const after = index === 0 ? null : visible[index - 1].id;
    return this.perform({ kind: 'insert', counter: this.counter + 1, after, chars: Array.from(text) });
  }

  delete(index, count) {
    const visible = this.sequence.visible();
    checkRange(index, 0, visible.length);
    checkRange(count, 0, visible.length - index);
    if (count === 0) return null;
    return this.perform({ kind: 'delete', ids: visible.slice(index, index + count).map((item) => item.id) });
  }

  undo() {
    if (this.undoable.length === 0) return null;
    return this.perform({ kind: 'undo', target: this.undoable.at(-1), undone: true });
  }

  redo() {
    if (this.redoable.length === 0) return null;
    return this.perform({ kind: 'undo', target: this.redoable.at(-1), undone: false });
  }

  /** Makes an operation and carries it out here. */
  perform(content) {
    const seen = [...this.done].filter(([site]) => site !== this.site);
    const operation = copy({ site: this.site, seq: (this.done.get(this.site) ?? 0) + 1, seen, ...content });
    const result = copy(operation);
    this.carryOut(operation, 'local');
    this.flush(); // own operations may come back before they are made again here
    return result;
  }

  apply(operation) {
    const { site, seq } = operation;
    if (seq <= (this.done.get(site) ?? 0)) return;
    this.inbox.add(copy(operation));
    this.flush();
  }

  /** Carries out what can be; not while a listener is at work in between. */
  flush() {
    if (this.flushing) return;
    this.flushing = true;
    try {
      for (;;) {
        const operation = this.inbox.take(this.done);
        if (operation === undefined) return;
        this.carryOut(operation, 'remote');
      }
    } finally {
      this.flushing = false;
    }
  }

  carryOut(operation, origin) {
    const { site, seq } = operation;
    this.done.set(site, seq);
    this.log.push(operation);
    const items = this.change(operation);
    if (site === this.site) this.track(operation);
    const patches = this.update(items);
    if (patches.length > 0) {
      for (const listener of [...this.listeners]) listener(copy(patches), origin);
    }
  }

  /** Changes the sequence; returns the characters that may look different now. */
  change(operation) {
    const key = (seq) => JSON.stringify([operation.site, seq]);
    let effect;
    if (operation.kind === 'insert') {
      effect = { kind: 'insert', undone: false, items: this.insertItems(operation) };
      this.effects.set(key(operation.seq), effect);
    } else if (operation.kind === 'delete') {
      const items = operation.ids.map((id) => this.sequence.find(id));
      for (const item of items) item.deletions += 1;
      effect = { kind: 'delete', undone: false, items };
      this.effects.set(key(operation.seq), effect);
    } else {
      effect = this.effects.get(key(operation.target));
      effect.undone = operation.undone;
      for (const item of effect.items) {
        if (effect.kind === 'insert') item.inserted = !operation.undone;
        else item.deletions += operation.undone ? -1 : 1;
      }
    }
    return effect.items;
  }

  insertItems({ site, counter, after, chars }) {
    let previous = after === null ? undefined : this.sequence.find(after);
    const items = [];
    chars.forEach((char, i) => {
      const item = { id: [counter + i, site], char, shown: false, inserted: true, deletions: 0 };
      this.sequence.place(item, previous);
      previous = item;
      items.push(item);
    });
    this.counter = Math.max(this.counter, counter + chars.length - 1);
    return items;
  }

  /** Keeps what can be undone and redone in step with the own operations. */
  track({ kind, seq, target, undone }) {
    if (kind !== 'undo') {
      this.undoable.push(seq);
      this.redoable = [];
    } else if (undone) {
      this.undoable.pop();
      this.redoable.push(target);
    } else {
      this.redoable.pop();
      this.undoable.push(target);
    }
  }

  /** Brings up to date what is shown; returns the changes to the visible text. */
  update(items) {
    const patches = [];
    for (const item of items) {
      const shown = item.inserted && item.deletions === 0;
      if (shown === item.shown) continue;
      const index = this.sequence.indexOf(item);
      item.shown = shown;
      const last = patches.at(-1);
      if (shown) {
        if (last?.insert && last.index + last.count === index) {
          last.insert += item.char;
          last.count += 1;
        } else {
          patches.push({ index, remove: 0, insert: item.char, count: 1 });
        }
      } else if (last?.remove && last.index === index) {
        last.remove += 1;
      } else {
        patches.push({ index, remove: 1, insert: '', count: 0 });
      }
    }
    return patches.map(({ index, remove, insert }) => ({ index, remove, insert }));
  }

  version() {
    return Object.fromEntries(this.done);
  }

  missing(version) {
    const has = (site) => (Object.hasOwn(version, site) ? version[site] : 0);
    return copy(this.log.filter(({ site, seq }) => seq > has(site)));
  }

  anchor(index) {
    const visible = this.sequence.visible();
    checkRange(index, 0, visible.length);
    return { after: index === 0 ? null : copy(visible[index - 1].id) };
  }

  position({ after }) {
    if (after === null) return 0;
    const item = this.sequence.find(after);
    if (item === undefined) throw new RangeError('the anchor is at a character that is not known here');
    return this.sequence.indexOf(item) + (item.shown ? 1 : 0);
  }

  onChange(listener) {
    const entry = (patches, origin) => listener(patches, origin);
    this.listeners.add(entry);
    return () => this.listeners.delete(entry);
  }
}

function checkRange(value, low, high) {
  if (!Number.isInteger(value) || value < low || value > high) {
    throw new RangeError(`${value} is not a whole number from ${low} to ${high}`);
  }
}

module.exports = { Replica };
E
