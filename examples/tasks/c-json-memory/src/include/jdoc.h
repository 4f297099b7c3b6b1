/* jdoc - JSON documents in memory
 *
 * A document is a tree of nodes. Every node belongs to one parent or to none;
 * who has a node without a parent owns it with all that is in it, until it is
 * put into another one or freed. Texts and keys have a length, may contain NUL
 * bytes, and are UTF-8; those handed out have a NUL byte behind them as well.
 */
#ifndef JDOC_H
#define JDOC_H

#include <stddef.h>

/* A scalar has depth 0, an array or object one more than the deepest node in
 * it, an empty one 1. */
#define JD_MAX_DEPTH 256

typedef enum { JD_NULL, JD_FALSE, JD_TRUE, JD_NUMBER, JD_STRING, JD_ARRAY, JD_OBJECT } jd_type;

typedef enum {
    JD_OK,
    JD_NOMEM,  /* no memory */
    JD_SYNTAX, /* the text is no JSON */
    JD_DEEP,   /* deeper than JD_MAX_DEPTH */
    JD_TYPE,   /* a node is of the wrong type, or has a parent already */
    JD_RANGE,  /* an index is too large, or a number is not finite */
    JD_CYCLE   /* a node would be put into itself */
} jd_error;

typedef struct jd_node jd_node;

/* Reads a document. On success *out is its root; otherwise *out is NULL, and
 * *where the offset of the fault (where may be NULL). */
jd_error jd_parse(const char *text, size_t length, jd_node **out, size_t *where);

/* New nodes without a parent; NULL if there is no memory. jd_new takes any type
 * but JD_NUMBER and JD_STRING (NULL for these); the number must be finite (NULL
 * if it is not). */
jd_node *jd_new(jd_type type);
jd_node *jd_new_number(double number);
jd_node *jd_new_string(const char *text, size_t length);

/* Takes a node out of its parent, if it has one, and frees it with all in it.
 * NULL is allowed. */
void jd_free(jd_node *node);

jd_type jd_kind(const jd_node *node);
jd_node *jd_parent(const jd_node *node);
/* The number of nodes in an array or object, 0 for all others. */
size_t jd_size(const jd_node *node);
/* 0 if it is no number. */
double jd_number(const jd_node *node);
/* NULL if it is no string; length may be NULL. */
const char *jd_text(const jd_node *node, size_t *length);

/* The node at a place of an array or object, in order; NULL if there is none. */
jd_node *jd_at(const jd_node *node, size_t index);
/* The key at a place of an object; NULL if there is none. */
const char *jd_key(const jd_node *object, size_t index, size_t *length);
/* The node with a key; NULL if there is none or it is no object. */
jd_node *jd_get(const jd_node *object, const char *key, size_t length);

/* Puts a node that has no parent into an array, before the node at index (or at
 * the end if index is the size). The checks come in the order JD_TYPE, JD_RANGE,
 * JD_CYCLE, JD_DEEP, JD_NOMEM, here and in jd_set. */
jd_error jd_insert(jd_node *array, size_t index, jd_node *node);
/* Puts a node that has no parent into an object. A node with this key is freed
 * and replaced at its place. */
jd_error jd_set(jd_node *object, const char *key, size_t length, jd_node *node);
/* Takes a node out of its parent, if it has one, and returns it. */
jd_node *jd_take(jd_node *node);

/* Changes the text of a string. */
jd_error jd_set_string(jd_node *node, const char *text, size_t length);
/* Copies a node with all in it; the copy has no parent. *out is NULL otherwise. */
jd_error jd_clone(const jd_node *node, jd_node **out);
/* Whether two documents are the same; the order of keys does not matter. */
int jd_equal(const jd_node *a, const jd_node *b);

/* Writes a document without blanks, as snprintf does: at most size bytes with
 * the NUL byte at the end, and returns the length of the whole text without it.
 * Quotes, backslashes and control characters are written as \" \\ \b \f \n \r \t
 * or \u00XX, all other characters as they are. */
size_t jd_write(const jd_node *node, char *buffer, size_t size);

#endif
