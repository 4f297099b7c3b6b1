#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct writer {
    char *buffer;
    size_t size;
    size_t length; /* of the whole text, whether it fits or not */
};

static void put(struct writer *w, const char *text, size_t length)
{
    size_t room = w->size - w->length;
    if (w->buffer != NULL)
        memcpy(w->buffer + w->length, text, length < room ? length : room);
    w->length += length;
}

static void put_text(struct writer *w, const char *text, size_t length)
{
    static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
    put(w, "\"", 1);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        const char *found = strchr(from, c);
        if (found != NULL) {
            char escape[2] = {'\\', to[found - from]};
            put(w, escape, 2);
        } else if (c < 0x20) {
            char escape[8];
            snprintf(escape, sizeof escape, "\\u%04x", (unsigned)c);
            put(w, escape, 6);
        } else {
            put(w, text + i, 1);
        }
    }
    put(w, "\"", 1);
}

static void put_number(struct writer *w, double number)
{
    char text[24];
    snprintf(text, sizeof text, "%.15g", number);
    put(w, text, strlen(text));
}

static void put_node(struct writer *w, const jd_node *node)
{
    switch (node->type) {
    case JD_NULL:
        put(w, "null", 4);
        break;
    case JD_FALSE:
        put(w, "false", 5);
        break;
    case JD_TRUE:
        put(w, "true", 4);
        break;
    case JD_NUMBER:
        put_number(w, node->number);
        break;
    case JD_STRING:
        put_text(w, node->text, node->length);
        break;
    case JD_ARRAY:
    case JD_OBJECT:
        put(w, node->type == JD_ARRAY ? "[" : "{", 1);
        for (size_t i = 0; i < node->size; i++) {
            if (i > 0)
                put(w, ",", 1);
            if (node->type == JD_OBJECT) {
                put_text(w, node->keys[i].text, node->keys[i].length);
                put(w, ":", 1);
            }
            put_node(w, node->items[i]);
        }
        put(w, node->type == JD_ARRAY ? "]" : "}", 1);
        break;
    }
}

size_t jd_write(const jd_node *node, char *buffer, size_t size)
{
    struct writer w = {buffer, size, 0};
    put_node(&w, node);
    if (buffer != NULL)
        buffer[w.length < size ? w.length : size - 1] = '\0';
    return w.length;
}
