/* What the files of the library share. */
#ifndef JDOC_INTERNAL_H
#define JDOC_INTERNAL_H

#include "jdoc.h"

struct jd_node {
    jd_type type;
    jd_node *parent;
    double number;
    char *text; /* of a string */
    size_t length;
    jd_node **items; /* of an array or object */
    struct jd_key *keys; /* of an object, as many as items */
    size_t size;
    size_t room; /* of items and keys */
};

struct jd_key {
    char *text;
    size_t length;
};

/* A copy of a text with a NUL byte behind it, or NULL. */
char *jd_copy(const char *text, size_t length);

#endif
