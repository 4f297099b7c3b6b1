#!/usr/bin/env node
'use strict';

const fs = require('node:fs');
const { expand, merge } = require('../lib');

function main(args) {
  const raw = args[0] === '--raw';
  const files = raw ? args.slice(1) : args;
  if (files.length === 0) {
    process.stderr.write('usage: envfile [--raw] FILE...\n');
    return 2;
  }
  try {
    const values = merge(files.map((file) => fs.readFileSync(file, 'utf8')));
    const shown = raw ? values : expand(values, process.env);
    process.stdout.write(JSON.stringify(shown, null, 2) + '\n');
    return 0;
  } catch (error) {
    process.stderr.write(`envfile: ${error.message}\n`);
    return 1;
  }
}

process.exitCode = main(process.argv.slice(2));
