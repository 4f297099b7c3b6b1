'use strict';

/** Identities are [counter, site]; later ones are greater. */
function isGreater(a, b) {
  return `${a[0]}@${a[1]}` > `${b[0]}@${b[1]}`;
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
    // A concurrent insertion with a greater identity comes first.
    if (at < this.items.length && isGreater(this.items[at].id, item.id)) at += 1;
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
