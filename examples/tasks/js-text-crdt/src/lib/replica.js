'use strict';

const { Inbox } = require('./inbox');
const { Sequence } = require('./sequence');

class Replica {
  constructor(site) {
    this.site = site;
    this.counter = 0; // of the last own identity
    this.done = {}; // operations carried out, by site
    this.log = [];
    this.effects = new Map(); // items of an operation, by site and number
    this.sequence = new Sequence();
    this.inbox = new Inbox();
    this.undoable = []; // numbers of own operations
    this.redoable = [];
    this.listeners = new Set();
  }

  static load(site, snapshot) {
    const replica = new Replica(site);
    for (const operation of snapshot.log) replica.carryOut(operation, 'remote');
    return replica;
  }

  snapshot() {
    return { log: this.log };
  }

  text() {
    return this.sequence.text();
  }

  get length() {
    return this.text().length;
  }

  get pending() {
    return this.inbox.size;
  }

  insert(index, text) {
    const visible = this.sequence.visible();
    checkRange(index, 0, visible.length);
    if (text === '') return null;
    const after = index === 0 ? null : visible[index - 1].id;
    return this.perform({ kind: 'insert', counter: this.counter + 1, after, chars: text.split('') });
  }

  delete(index, count) {
    const visible = this.sequence.visible();
    checkRange(index, 0, visible.length);
    if (count === 0) return null;
    return this.perform({ kind: 'delete', ids: visible.slice(index, index + count).map((item) => item.id) });
  }

  undo() {
    if (this.undoable.length === 0) return null;
    return this.perform({ kind: 'undo', target: this.undoable.pop(), undone: true });
  }

  redo() {
    if (this.redoable.length === 0) return null;
    return this.perform({ kind: 'undo', target: this.redoable.pop(), undone: false });
  }

  /** Makes an operation and carries it out here. */
  perform(content) {
    const { [this.site]: own = 0, ...seen } = this.done;
    const operation = { site: this.site, seq: own + 1, seen, ...content };
    this.carryOut(operation, 'local');
    return operation;
  }

  apply(operation) {
    const { site, seq } = operation;
    if (seq === this.done[site]) return;
    this.inbox.add(operation);
    this.flush();
  }

  flush() {
    for (;;) {
      const operation = this.inbox.take(this.done);
      if (operation === undefined) return;
      this.carryOut(operation, 'remote');
    }
  }

  carryOut(operation, origin) {
    const { site, seq } = operation;
    this.done[site] = seq;
    this.log.push(operation);
    const items = this.change(operation);
    if (origin === 'local') this.track(operation);
    const patches = this.update(items);
    for (const listener of this.listeners) listener(patches, origin);
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
      for (const item of items) item.deleted = true;
      effect = { kind: 'delete', undone: false, items };
      this.effects.set(key(operation.seq), effect);
    } else {
      effect = this.effects.get(key(operation.target));
      effect.undone = operation.undone;
      for (const item of effect.items) {
        if (effect.kind === 'insert') item.inserted = !operation.undone;
        else item.deleted = !operation.undone;
      }
    }
    return effect.items;
  }

  insertItems({ site, counter, after, chars }) {
    let previous = after === null ? undefined : this.sequence.find(after);
    const items = [];
    chars.forEach((char, i) => {
      const item = { id: [counter + i, site], char, shown: false, inserted: true, deleted: false };
      this.sequence.place(item, previous);
      previous = item;
      items.push(item);
    });
    if (site === this.site) this.counter = counter + chars.length - 1;
    return items;
  }

  /** Keeps what can be undone and redone in step with the own operations. */
  track({ kind, seq, target, undone }) {
    if (kind !== 'undo') this.undoable.push(seq);
    else if (undone) this.redoable.push(target);
    else this.undoable.push(target);
  }

  /** Brings up to date what is shown; returns the changes to the visible text. */
  update(items) {
    const patches = [];
    for (const item of items) {
      const shown = item.inserted && !item.deleted;
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
    return this.done;
  }

  missing(version) {
    return this.log.filter(({ site, seq }) => seq > (version[site] ?? 0));
  }

  anchor(index) {
    const visible = this.sequence.visible();
    checkRange(index, 0, visible.length);
    return { after: index === 0 ? null : visible[index - 1].id };
  }

  position({ after }) {
    if (after === null) return 0;
    const item = this.sequence.find(after);
    return this.sequence.indexOf(item) + 1;
  }

  onChange(listener) {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }
}

function checkRange(value, low, high) {
  if (!Number.isInteger(value) || value < low || value > high) {
    throw new RangeError(`${value} is not a whole number from ${low} to ${high}`);
  }
}

module.exports = { Replica };
