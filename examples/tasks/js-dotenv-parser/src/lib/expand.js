'use strict';

const REFERENCE = /\$\{?(\w+)(?::-([^}]*))?\}?/g;

/**
 * Replace the references in the values of a parsed file.
 *
 * @param {Object<string, string>} values
 * @param {Object<string, string>} [env] variables that win over the file's
 * @returns {Object<string, string>}
 */
function expand(values, env = {}) {
  for (const key of Object.keys(values)) {
    values[key] = values[key].replace(REFERENCE, (all, name, fallback) => {
      return env[name] || values[name] || fallback || '';
    });
  }
  return values;
}

module.exports = { expand };
