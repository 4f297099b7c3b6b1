#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct parser {
    const char *start, *at, *end;
};

static jd_error parse_value(struct parser *p, size_t depth, jd_node **out);

static jd_error fault(struct parser *p, const char *where)
{
    p->at = where;
    return JD_SYNTAX;
}

static void skip_blanks(struct parser *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\n' || *p->at == '\r'))
        p->at++;
}

/* The character at the place of the parser, -1 at the end. */
static int peek(const struct parser *p)
{
    return p->at < p->end ? (unsigned char)*p->at : -1;
}

static int is_digit(int c)
{
    return c >= '0' && c <= '9';
}

static jd_error parse_literal(struct parser *p, const char *word, jd_type type, jd_node **out)
{
    size_t length = strlen(word);
    if (strncmp(p->at, word, length) != 0)
        return JD_SYNTAX;
    *out = jd_new(type);
    if (*out == NULL)
        return JD_NOMEM;
    p->at += length;
    return JD_OK;
}

static jd_error parse_number(struct parser *p, jd_node **out)
{
    char *end;
    double number = strtod(p->at, &end);
    if (end == p->at || !isfinite(number))
        return JD_SYNTAX;
    p->at = end;
    *out = jd_new_number(number);
    return *out == NULL ? JD_NOMEM : JD_OK;
}

static int hex_digit(int c)
{
    if (is_digit(c))
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

/* Reads the four digits after \u; -1 if they are wrong. */
static long parse_hex(struct parser *p)
{
    long value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(*p->at++);
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

/* Reads the rest of an escape \u with its second half; as parse_hex. */
static long parse_escape(struct parser *p)
{
    long high = parse_hex(p);
    if (high < 0xd800 || high > 0xdbff)
        return high;
    p->at += 2; /* \u */
    long low = parse_hex(p);
    return low < 0 ? low : 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
}

static size_t put_utf8(char *out, long c)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const int lead[] = {0, 0xc0, 0xe0, 0xf0};
    out[0] = (char)(lead[more] | c >> (6 * more));
    for (size_t i = 1; i <= more; i++)
        out[i] = (char)(0x80 | (c >> (6 * (more - i)) & 0x3f));
    return more + 1;
}

/* Reads a string; the text is never longer than its JSON form. */
static jd_error parse_text(struct parser *p, char **text, size_t *length)
{
    const char *first = p->at++;
    const char *last = memchr(p->at, '"', (size_t)(p->end - p->at));
    if (last == NULL)
        return fault(p, p->end);
    char *out = malloc((size_t)(last - p->at));
    if (out == NULL)
        return JD_NOMEM;
    *length = 0;
    while (*p->at != '"') {
        char c = *p->at++;
        if (c != '\\') {
            out[(*length)++] = c;
            continue;
        }
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        c = *p->at++;
        const char *found = strchr(from, c);
        if (found != NULL) {
            out[(*length)++] = to[found - from];
        } else if (c == 'u') {
            long value = parse_escape(p);
            if (value < 0)
                return fault(p, first);
            *length += put_utf8(out + *length, value);
        } else {
            return fault(p, first);
        }
    }
    p->at++;
    out[*length] = '\0';
    *text = out;
    return JD_OK;
}

static jd_error parse_string(struct parser *p, jd_node **out)
{
    char *text;
    size_t length;
    jd_error error = parse_text(p, &text, &length);
    if (error != JD_OK)
        return error;
    *out = jd_new_string(text, strlen(text));
    free(text);
    return *out == NULL ? JD_NOMEM : JD_OK;
}

/* Reads "key": value into an object. */
static jd_error parse_member(struct parser *p, size_t depth, jd_node *object)
{
    char *key;
    size_t length;
    if (peek(p) != '"')
        return JD_SYNTAX;
    jd_error error = parse_text(p, &key, &length);
    if (error != JD_OK)
        return error;
    jd_node *value = NULL;
    skip_blanks(p);
    if (peek(p) == ':') {
        p->at++;
        error = parse_value(p, depth, &value);
    } else {
        error = JD_SYNTAX;
    }
    if (error != JD_OK)
        return error;
    error = jd_set(object, key, length, value);
    free(key);
    return error;
}

static jd_error parse_container(struct parser *p, size_t depth, jd_node **out)
{
    int object = peek(p) == '{';
    int closing = object ? '}' : ']';
    jd_node *node = jd_new(object ? JD_OBJECT : JD_ARRAY);
    if (node == NULL)
        return JD_NOMEM;
    p->at++;
    skip_blanks(p);
    jd_error error = JD_OK;
    if (peek(p) != closing) {
        for (;;) {
            skip_blanks(p);
            if (object) {
                error = parse_member(p, depth + 1, node);
            } else {
                jd_node *item;
                error = parse_value(p, depth + 1, &item);
                if (error == JD_OK)
                    error = jd_insert(node, jd_size(node), item);
            }
            if (error != JD_OK)
                break;
            skip_blanks(p);
            if (peek(p) != ',')
                break;
            p->at++;
        }
    }
    if (error == JD_OK && peek(p) != closing)
        error = JD_SYNTAX;
    if (error != JD_OK) {
        jd_free(node);
        return error;
    }
    p->at++;
    *out = node;
    return JD_OK;
}

static jd_error parse_value(struct parser *p, size_t depth, jd_node **out)
{
    skip_blanks(p);
    switch (peek(p)) {
    case 'n':
        return parse_literal(p, "null", JD_NULL, out);
    case 'f':
        return parse_literal(p, "false", JD_FALSE, out);
    case 't':
        return parse_literal(p, "true", JD_TRUE, out);
    case '"':
        return parse_string(p, out);
    case '[':
    case '{':
        return parse_container(p, depth, out);
    default:
        if (peek(p) == '-' || is_digit(peek(p)))
            return parse_number(p, out);
        return JD_SYNTAX;
    }
}

jd_error jd_parse(const char *text, size_t length, jd_node **out, size_t *where)
{
    struct parser p = {text, text, text + length};
    *out = NULL;
    jd_node *root = NULL;
    jd_error error = parse_value(&p, 0, &root);
    if (error == JD_OK) {
        skip_blanks(&p);
        if (p.at < p.end)
            error = JD_SYNTAX;
    }
    if (error == JD_OK)
        *out = root;
    else if (where != NULL)
        *where = (size_t)(p.at - p.start);
    return error;
}
