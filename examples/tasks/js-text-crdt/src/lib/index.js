'use strict';

const { Replica } = require('./replica');

/** A new replica with an empty text. */
function createReplica(site) {
  return new Replica(site);
}

/** A replica in the state of a snapshot. */
function loadReplica(site, snapshot) {
  return Replica.load(site, snapshot);
}

module.exports = { createReplica, loadReplica };
