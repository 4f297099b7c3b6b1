#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

char *jd_copy(const char *text, size_t length)
{
    char *copy = malloc(length + 1);
    if (copy == NULL)
        return NULL;
    if (length > 0)
        memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

static jd_node *new_node(jd_type type)
{
    jd_node *node = calloc(1, sizeof *node);
    if (node != NULL)
        node->type = type;
    return node;
}

jd_node *jd_new(jd_type type)
{
    return type == JD_NUMBER || type == JD_STRING ? NULL : new_node(type);
}

jd_node *jd_new_number(double number)
{
    if (!isfinite(number))
        return NULL;
    jd_node *node = new_node(JD_NUMBER);
    if (node != NULL)
        node->number = number;
    return node;
}

jd_node *jd_new_string(const char *text, size_t length)
{
    jd_node *node = new_node(JD_STRING);
    if (node == NULL)
        return NULL;
    node->text = jd_copy(text, length);
    if (node->text == NULL)
        return NULL;
    node->length = length;
    return node;
}

static void free_tree(jd_node *node)
{
    for (size_t i = 0; i < node->size; i++)
        free_tree(node->items[i]);
    free(node->items);
    free(node->keys);
    free(node->text);
    free(node);
}

void jd_free(jd_node *node)
{
    if (node != NULL)
        free_tree(node);
}

jd_type jd_kind(const jd_node *node)
{
    return node->type;
}

jd_node *jd_parent(const jd_node *node)
{
    return node->parent;
}

size_t jd_size(const jd_node *node)
{
    return node->size;
}

double jd_number(const jd_node *node)
{
    return node->number;
}

const char *jd_text(const jd_node *node, size_t *length)
{
    if (length != NULL)
        *length = node->length;
    return node->text;
}

jd_node *jd_at(const jd_node *node, size_t index)
{
    return index < node->size ? node->items[index] : NULL;
}

const char *jd_key(const jd_node *object, size_t index, size_t *length)
{
    if (object->type != JD_OBJECT || index >= object->size)
        return NULL;
    if (length != NULL)
        *length = object->keys[index].length;
    return object->keys[index].text;
}

/* The place of a key, or the size if it is not there. */
static size_t find(const jd_node *object, const char *key, size_t length)
{
    size_t i;
    for (i = 0; i < object->size; i++) {
        const struct jd_key *k = &object->keys[i];
        if (strncmp(k->text, key, length) == 0)
            break;
    }
    return i;
}

jd_node *jd_get(const jd_node *object, const char *key, size_t length)
{
    return object->type == JD_OBJECT ? jd_at(object, find(object, key, length)) : NULL;
}

/* Whether a node may be put into another one. */
static jd_error check_place(const jd_node *container, const jd_node *node)
{
    return container == node ? JD_CYCLE : JD_OK;
}

/* Makes room for one more node. */
static jd_error grow(jd_node *node)
{
    if (node->size < node->room)
        return JD_OK;
    node->room = node->room == 0 ? 4 : node->room * 2;
    node->items = realloc(node->items, node->room * sizeof *node->items);
    if (node->items == NULL)
        return JD_NOMEM;
    if (node->type == JD_OBJECT) {
        node->keys = realloc(node->keys, node->room * sizeof *node->keys);
        if (node->keys == NULL)
            return JD_NOMEM;
    }
    return JD_OK;
}

jd_error jd_insert(jd_node *array, size_t index, jd_node *node)
{
    if (array->type != JD_ARRAY || node->parent != NULL)
        return JD_TYPE;
    if (index > array->size)
        return JD_RANGE;
    jd_error error = check_place(array, node);
    if (error == JD_OK)
        error = grow(array);
    if (error != JD_OK)
        return error;
    memmove(array->items + index + 1, array->items + index, (array->size - index + 1) * sizeof *array->items);
    array->items[index] = node;
    array->size++;
    node->parent = array;
    return JD_OK;
}

jd_error jd_set(jd_node *object, const char *key, size_t length, jd_node *node)
{
    if (object->type != JD_OBJECT || node->parent != NULL)
        return JD_TYPE;
    jd_error error = check_place(object, node);
    if (error != JD_OK)
        return error;
    size_t i = find(object, key, length);
    if (i < object->size) {
        free_tree(object->items[i]);
        object->items[i] = node;
        return JD_OK;
    }
    error = grow(object);
    if (error != JD_OK)
        return error;
    object->size++;
    object->items[i] = node;
    object->keys[i].length = length;
    object->keys[i].text = jd_copy(key, length);
    node->parent = object;
    return object->keys[i].text == NULL ? JD_NOMEM : JD_OK;
}

jd_node *jd_take(jd_node *node)
{
    jd_node *parent = node->parent;
    if (parent == NULL)
        return node;
    size_t i = 0;
    while (parent->items[i] != node)
        i++;
    size_t behind = parent->size - i;
    memmove(parent->items + i, parent->items + i + 1, behind * sizeof *parent->items);
    if (parent->type == JD_OBJECT)
        memmove(parent->keys + i, parent->keys + i + 1, behind * sizeof *parent->keys);
    parent->size--;
    node->parent = NULL;
    return node;
}

jd_error jd_set_string(jd_node *node, const char *text, size_t length)
{
    if (node->type != JD_STRING)
        return JD_TYPE;
    free(node->text);
    node->text = jd_copy(text, length);
    node->length = length;
    return node->text == NULL ? JD_NOMEM : JD_OK;
}

jd_error jd_clone(const jd_node *node, jd_node **out)
{
    *out = NULL;
    jd_node *copy = node->type == JD_STRING ? jd_new_string(node->text, node->length) : new_node(node->type);
    if (copy == NULL)
        return JD_NOMEM;
    copy->number = node->number;
    for (size_t i = 0; i < node->size; i++) {
        jd_node *item;
        jd_error error = jd_clone(node->items[i], &item);
        if (error == JD_OK) {
            if (node->type == JD_OBJECT)
                error = jd_set(copy, node->keys[i].text, node->keys[i].length, item);
            else
                error = jd_insert(copy, i, item);
        }
        if (error != JD_OK)
            return error;
    }
    *out = copy;
    return JD_OK;
}

int jd_equal(const jd_node *a, const jd_node *b)
{
    if (a->type != b->type || a->size != b->size)
        return 0;
    if (a->type == JD_NUMBER)
        return a->number == b->number;
    if (a->type == JD_STRING)
        return memcmp(a->text, b->text, a->length) == 0;
    for (size_t i = 0; i < a->size; i++) {
        const jd_node *other;
        if (a->type == JD_OBJECT)
            other = jd_get(b, a->keys[i].text, a->keys[i].length);
        else
            other = b->items[i];
        if (other == NULL || !jd_equal(a->items[i], other))
            return 0;
    }
    return 1;
}
