/* Tests of jdoc; each runs in a process of its own. */
#include "guard.h"
#include "jdoc.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition, ...)                                          \
    do {                                                               \
        if (!(condition)) {                                            \
            printf("  line %d: %s: ", __LINE__, #condition);           \
            guard_fail(" " __VA_ARGS__);                               \
        }                                                              \
    } while (0)

static const char *names[] = {"JD_OK", "JD_NOMEM", "JD_SYNTAX", "JD_DEEP", "JD_TYPE", "JD_RANGE", "JD_CYCLE"};

static jd_node *parse_n(const char *text, size_t length)
{
    jd_node *root;
    size_t where = 0;
    jd_error error = jd_parse(guard_copy(text, length), length, &root, &where);
    CHECK(error == JD_OK, "%s at %zu of %.*s", names[error], where, (int)length, text);
    return root;
}

static jd_node *parse(const char *text)
{
    return parse_n(text, strlen(text));
}

/* The JSON form, in room of exactly its size. */
static char *form(const jd_node *node)
{
    size_t length = jd_write(node, NULL, 0);
    char *buffer = guard_room(length + 1);
    CHECK(jd_write(node, buffer, length + 1) == length);
    CHECK(strlen(buffer) == length, "the text has another length than %zu", length);
    return buffer;
}

static void expect_form(const jd_node *node, const char *wanted)
{
    char *got = form(node);
    CHECK(strcmp(got, wanted) == 0, "got %s instead of %s", got, wanted);
}

static void expect_error(const char *text, size_t length, jd_error wanted, size_t at)
{
    jd_node *root = (jd_node *)1;
    size_t where = 12345;
    size_t before = guard_live();
    jd_error error = jd_parse(guard_copy(text, length), length, &root, &where);
    CHECK(error == wanted, "%.60s: got %s instead of %s", text, names[error], names[wanted]);
    CHECK(root == NULL, "%.60s: *out is not NULL", text);
    CHECK(where == at, "%.60s: fault at %zu instead of %zu", text, where, at);
    CHECK(guard_live() == before, "%.60s: %zu blocks leaked", text, guard_live() - before);
}

#define SYNTAX(text, at) expect_error(text, sizeof(text) - 1, JD_SYNTAX, at)

static void test_values(void)
{
    static const char *const same[] = {"null", "true", "false", "0", "-1", "1.5", "\"\"", "\"a\"", "[]", "{}", "[[],{}]",
                                       "{\"a\":{\"b\":[1,2,{\"c\":null}]},\"\":false}", "[\"\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u001f\"]",
                                       "\"\xc3\xbc\xe2\x82\xac\xf0\x9f\x98\x80\x7f\"", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]"};
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        jd_node *root = parse(same[i]);
        expect_form(root, same[i]);
        jd_free(root);
    }
    jd_node *root = parse(" \t\r\n[ 1 , { \"a\" : true } ] \n");
    expect_form(root, "[1,{\"a\":true}]");
    jd_free(root);
    root = parse("[\"\\/\\u00fC\\uD83D\\ude00\\u0000\\u0041\"]");
    size_t length;
    const char *text = jd_text(jd_at(root, 0), &length);
    CHECK(length == 9 && memcmp(text, "/\xc3\xbc\xf0\x9f\x98\x80\0A", 10) == 0);
    expect_form(root, "[\"/\xc3\xbc\xf0\x9f\x98\x80\\u0000A\"]");
    jd_free(root);
}

static void test_syntax_errors(void)
{
    SYNTAX("", 0);
    SYNTAX("  ", 2);
    SYNTAX("nul", 3);
    SYNTAX("nulx", 0);
    SYNTAX("[nUll]", 1);
    SYNTAX("t", 1);
    SYNTAX("truee", 4);
    SYNTAX("[fals", 5);
    SYNTAX("1 2", 2);
    SYNTAX("[1]]", 3);
    SYNTAX("[1", 2);
    SYNTAX("[1,", 3);
    SYNTAX("[1,]", 3);
    SYNTAX("[,1]", 1);
    SYNTAX("[1 2]", 3);
    SYNTAX("[", 1);
    SYNTAX("{", 1);
    SYNTAX("{\"a\"", 4);
    SYNTAX("{\"a\":", 5);
    SYNTAX("{\"a\":1", 6);
    SYNTAX("{\"a\":1,", 7);
    SYNTAX("{\"a\":1,}", 7);
    SYNTAX("{\"a\" 1}", 5);
    SYNTAX("{a:1}", 1);
    SYNTAX("{\"a\":}", 5);
    SYNTAX("{\"a\":1]", 6);
    SYNTAX("[1}", 2);
    SYNTAX("\"", 1);
    SYNTAX("\"abc", 4);
    SYNTAX("\"abc\\", 5);
    SYNTAX("\"abc\\\"", 6);
    SYNTAX("[\"\\x\"]", 1);
    SYNTAX("\"\\u", 3);
    SYNTAX("\"\\u12", 5);
    SYNTAX("\"\\u12g4\"", 0);
    SYNTAX("\"\\ud83d", 7);
    SYNTAX("\"\\ud83d\\", 8);
    SYNTAX("\"\\ud83d\\ude0", 12);
    SYNTAX("\"\\ud83d\"", 0);
    SYNTAX("\"\\ud83dx\"", 0);
    SYNTAX("\"\\ud83d\\n\"", 0);
    SYNTAX("\"\\ud83d\\u0041\"", 0);
    SYNTAX("\"\\ude00\"", 0);
    SYNTAX("\"a\nb\"", 0);
    SYNTAX("\"a\0b\"", 0);
    SYNTAX("[1,\0]", 3);
    SYNTAX("[1]\0", 3);
    SYNTAX("\xef\xbb\xbf[]", 0);
    SYNTAX("'a'", 0);
    SYNTAX("[\"\\\0\"]", 1);
}

static void test_utf8(void)
{
    SYNTAX("\"\x80\"", 0);
    SYNTAX("\"\xc3\"", 0);
    SYNTAX("\"\xc3", 2);
    SYNTAX("\"\xc0\x80\"", 0);
    SYNTAX("\"\xc1\xbf\"", 0);
    SYNTAX("\"\xe0\x9f\xbf\"", 0);
    SYNTAX("\"\xed\xa0\x80\"", 0);
    SYNTAX("\"\xf0\x8f\xbf\xbf\"", 0);
    SYNTAX("\"\xf4\x90\x80\x80\"", 0);
    SYNTAX("\"\xf5\x80\x80\x80\"", 0);
    SYNTAX("\"\xe2\x82\"", 0);
    SYNTAX("\"\xf0\x9f\x98", 4);
    SYNTAX("\"\xff\"", 0);
    static const char *const valid[] = {"\"\xc2\x80\"", "\"\xe0\xa0\x80\"", "\"\xed\x9f\xbf\"", "\"\xee\x80\x80\"",
                                        "\"\xf0\x90\x80\x80\"", "\"\xf4\x8f\xbf\xbf\""};
    for (size_t i = 0; i < sizeof valid / sizeof *valid; i++) {
        jd_node *root = parse(valid[i]);
        expect_form(root, valid[i]);
        jd_free(root);
    }
}

static void test_number_syntax(void)
{
    SYNTAX("-", 1);
    SYNTAX("[-]", 1);
    SYNTAX("01", 0);
    SYNTAX("-01", 0);
    SYNTAX("00", 0);
    SYNTAX("1.", 2);
    SYNTAX("1.}", 0);
    SYNTAX("1e", 2);
    SYNTAX("1e+", 3);
    SYNTAX("1e+x", 0);
    SYNTAX(".5", 0);
    SYNTAX("+1", 0);
    SYNTAX("0x10", 1);
    SYNTAX("1f", 1);
    SYNTAX("inf", 0);
    SYNTAX("nan", 0);
    SYNTAX("-Infinity", 0);
    SYNTAX("1e999", 0);
    SYNTAX("[-1e400]", 1);
    static const struct { const char *text; double number; } numbers[] = {
        {"0", 0}, {"-0", 0}, {"0.0e0", 0}, {"1E2", 100}, {"1e+2", 100}, {"12.5e-1", 1.25}, {"1e-400", 0},
        {"1.7976931348623157e308", DBL_MAX}, {"4.9e-324", 4.9406564584124654e-324}, {"123456789012345678", 123456789012345678.0}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        jd_node *root = parse(numbers[i].text);
        CHECK(jd_number(root) == numbers[i].number, "%s is %g", numbers[i].text, jd_number(root));
        jd_free(root);
    }
    /* Digits right behind the text do not belong to it. */
    char digits[300];
    memset(digits, '7', sizeof digits);
    for (size_t length = 14; length <= sizeof digits; length += 13) {
        jd_node *root = parse_n(digits, length);
        CHECK(fabs(jd_number(root) / pow(10, (double)length) - 0.77777777) < 0.001, "%zu digits: %g", length, jd_number(root));
        jd_free(root);
    }
    jd_node *root;
    size_t where;
    CHECK(jd_parse("1234567", 3, &root, &where) == JD_OK && jd_number(root) == 123);
    jd_free(root);
    CHECK(jd_parse("12e5", 2, &root, NULL) == JD_OK && jd_number(root) == 12);
    jd_free(root);
}

static void test_number_forms(void)
{
    static const struct { double number; const char *text; } numbers[] = {
        {0.1, "0.1"}, {0.1 + 0.2, "0.30000000000000004"}, {1e21, "1e+21"}, {-1.5e-7, "-1.5e-07"}, {123456789012345680.0, "1.2345678901234568e+17"},
        {DBL_MAX, "1.7976931348623157e+308"}, {-DBL_MIN, "-2.2250738585072014e-308"}, {5e-324, "4.94065645841247e-324"},
        {9007199254740993.0, "9007199254740992"}, {1.0 / 3, "0.3333333333333333"}, {100, "100"}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        jd_node *node = jd_new_number(numbers[i].number);
        expect_form(node, numbers[i].text);
        jd_node *again = parse(form(node));
        CHECK(jd_number(again) == numbers[i].number, "%s is read as another number", numbers[i].text);
        jd_free(again);
        jd_free(node);
    }
    CHECK(jd_new_number(INFINITY) == NULL && jd_new_number(-INFINITY) == NULL && jd_new_number(NAN) == NULL);
    CHECK(jd_new(JD_NUMBER) == NULL && jd_new(JD_STRING) == NULL);
}

static void test_every_prefix(void)
{
    static const char text[] = "{\"k\\u00e9y\": [true, false, null, -12.5e+3, \"\\ud83d\\ude00 \xe2\x82\xac\\n\"], \"z\": {\"y\": [[]]}}";
    for (size_t length = 0; length < sizeof text - 1; length++)
        expect_error(text, length, JD_SYNTAX, length);
    jd_free(parse(text));
}

static void test_bytes_changed(void)
{
    /* Whatever comes out, nothing may be touched or leaked. */
    static const char text[] = "{\"k\\u00e9y\": [true, -12.5e+3, \"\\ud83d\\ude00 \xe2\x82\xac\\n\"], \"z\": {\"y\": [[]]}}";
    static const char bytes[] = "\0\"\\[]{},:eE.-+0u9dn\x80\xc3\xf0\xff t";
    char copy[sizeof text];
    for (size_t i = 0; i < sizeof text - 1; i++) {
        for (size_t k = 0; k < sizeof bytes - 1; k++) {
            memcpy(copy, text, sizeof text);
            copy[i] = bytes[k];
            jd_node *root;
            size_t where = 0, before = guard_live();
            jd_error error = jd_parse(guard_copy(copy, sizeof text - 1), sizeof text - 1, &root, &where);
            CHECK(error == JD_OK || (error == JD_SYNTAX && where < sizeof text));
            if (error == JD_OK) {
                jd_node *again = parse(form(root));
                CHECK(jd_equal(root, again), "%s is written as something else", copy);
                jd_free(again);
            }
            jd_free(root);
            CHECK(guard_live() == before, "blocks leaked for %s", copy);
        }
    }
}

static void test_duplicate_keys(void)
{
    jd_node *root = parse("{\"a\":1,\"b\":[2],\"a\":{\"x\":[3]},\"b\":4,\"ab\":5,\"\":6,\"\\u0000\":7}");
    expect_form(root, "{\"a\":{\"x\":[3]},\"b\":4,\"ab\":5,\"\":6,\"\\u0000\":7}");
    CHECK(jd_number(jd_get(root, "", 0)) == 6 && jd_number(jd_get(root, "\0", 1)) == 7);
    CHECK(jd_get(root, "a\0", 2) == NULL && jd_get(root, "abc", 3) == NULL && jd_kind(jd_get(root, "a", 1)) == JD_OBJECT);
    CHECK(jd_number(jd_get(root, guard_copy("ab", 2), 2)) == 5);
    CHECK(jd_parent(jd_get(root, "a", 1)) == root);
    jd_free(root);
}

static char *brackets(size_t open, const char *inside)
{
    size_t middle = strlen(inside);
    char *text = guard_room(2 * open + middle + 1);
    memset(text, '[', open);
    memcpy(text + open, inside, middle);
    memset(text + open + middle, ']', open);
    text[2 * open + middle] = '\0';
    return text;
}

static void test_depth_of_texts(void)
{
    jd_free(parse(brackets(JD_MAX_DEPTH, "")));
    jd_free(parse(brackets(JD_MAX_DEPTH, "1")));
    expect_error(brackets(JD_MAX_DEPTH + 1, ""), 2 * JD_MAX_DEPTH + 2, JD_DEEP, JD_MAX_DEPTH);
    expect_error(brackets(JD_MAX_DEPTH, "{}"), 2 * JD_MAX_DEPTH + 2, JD_DEEP, JD_MAX_DEPTH);
    expect_error(brackets(JD_MAX_DEPTH, "1,{"), JD_MAX_DEPTH + 3, JD_DEEP, JD_MAX_DEPTH + 2);
    static char many[3000000];
    memset(many, '[', sizeof many);
    expect_error(many, sizeof many, JD_DEEP, JD_MAX_DEPTH);
    for (size_t i = 0; i + 5 <= sizeof many; i += 5)
        memcpy(many + i, "{\"\":", 4), many[i + 4] = ' ';
    expect_error(many, sizeof many - sizeof many % 5, JD_DEEP, 5 * JD_MAX_DEPTH);
}

static void test_depth_by_hand(void)
{
    jd_node *root = jd_new(JD_ARRAY), *deepest = root;
    for (int i = 1; i < JD_MAX_DEPTH; i++) {
        jd_node *more = jd_new(i % 2 ? JD_OBJECT : JD_ARRAY);
        if (jd_kind(deepest) == JD_ARRAY)
            CHECK(jd_insert(deepest, 0, more) == JD_OK, "level %d", i);
        else
            CHECK(jd_set(deepest, "k", 1, more) == JD_OK, "level %d", i);
        deepest = more;
    }
    jd_node *one = jd_new(JD_ARRAY);
    char *before = form(root);
    CHECK(jd_set(deepest, "x", 1, one) == JD_DEEP && jd_parent(one) == NULL && jd_size(deepest) == 0);
    jd_node *number = jd_new_number(1);
    CHECK(jd_set(deepest, "x", 1, number) == JD_OK);
    CHECK(jd_set(deepest, "x", 1, one) == JD_DEEP && jd_get(deepest, "x", 1) == number);
    jd_free(number);
    CHECK(strcmp(form(root), before) == 0);
    CHECK(jd_insert(one, 0, root) == JD_DEEP && jd_parent(root) == NULL && jd_size(one) == 0);
    jd_node *nested = parse("[[],[[1]]]");
    jd_node *place = deepest;
    for (int i = 0; i < 2; i++)
        place = jd_parent(place);
    if (jd_kind(place) == JD_ARRAY)
        place = jd_parent(place);
    CHECK(jd_set(place, "n", 1, nested) == (place == jd_parent(jd_parent(deepest)) ? JD_DEEP : JD_OK));
    if (jd_parent(nested) == NULL)
        jd_free(nested);
    jd_node *copy;
    CHECK(jd_clone(root, &copy) == JD_OK && jd_equal(root, copy));
    jd_free(copy);
    jd_free(one);
    jd_free(root);
}

static void test_cycles(void)
{
    jd_node *root = parse("[[[1],{\"a\":[]}],2]");
    jd_node *inner = jd_get(jd_at(jd_at(root, 0), 1), "a", 1);
    CHECK(jd_insert(root, 0, root) == JD_CYCLE);
    CHECK(jd_insert(inner, 0, root) == JD_CYCLE);
    CHECK(jd_insert(inner, 1, root) == JD_RANGE);
    CHECK(jd_set(jd_parent(inner), "b", 1, root) == JD_CYCLE);
    CHECK(jd_set(jd_parent(inner), "a", 1, root) == JD_CYCLE);
    CHECK(jd_insert(root, 0, inner) == JD_TYPE, "it has a parent");
    CHECK(jd_set(jd_parent(inner), "a", 1, inner) == JD_TYPE, "it has a parent");
    CHECK(jd_insert(jd_at(root, 1), 0, root) == JD_TYPE && jd_set(root, "a", 1, inner) == JD_TYPE);
    expect_form(root, "[[[1],{\"a\":[]}],2]");
    jd_free(root);
}

static void test_insert_and_take(void)
{
    jd_node *root = jd_new(JD_ARRAY);
    for (int i = 0; i < 40; i++) {
        CHECK(jd_insert(root, (size_t)i / 2, jd_new_number(i)) == JD_OK);
        CHECK(jd_size(root) == (size_t)i + 1);
    }
    CHECK(jd_insert(root, 41, jd_at(root, 0)) == JD_TYPE);
    jd_node *lone = jd_new(JD_NULL);
    CHECK(jd_insert(root, 41, lone) == JD_RANGE && jd_insert(root, SIZE_MAX, lone) == JD_RANGE);
    CHECK(jd_insert(root, 40, lone) == JD_OK && jd_at(root, 40) == lone && jd_at(root, 41) == NULL);
    CHECK(jd_take(lone) == lone && jd_parent(lone) == NULL && jd_take(lone) == lone && jd_size(root) == 40);
    jd_free(lone);
    expect_form(root, "[1,3,5,7,9,11,13,15,17,19,21,23,25,27,29,31,33,35,37,39,38,36,34,32,30,28,26,24,22,20,18,16,14,12,10,8,6,4,2,0]");
    while (jd_size(root) > 2) {
        jd_node *node = jd_take(jd_at(root, jd_size(root) / 2));
        CHECK(jd_parent(node) == NULL);
        jd_free(node);
    }
    jd_free(jd_at(root, 0));
    expect_form(root, "[0]");
    jd_free(jd_at(root, 0));
    expect_form(root, "[]");
    CHECK(jd_insert(root, 0, jd_new(JD_TRUE)) == JD_OK);
    expect_form(root, "[true]");
    jd_free(root);
    jd_free(NULL);
}

static void test_objects(void)
{
    jd_node *root = jd_new(JD_OBJECT);
    char key[8];
    for (int i = 0; i < 40; i++) {
        int length = snprintf(key, sizeof key, "k%d", i);
        CHECK(jd_set(root, guard_copy(key, (size_t)length), (size_t)length, jd_new_number(i)) == JD_OK);
    }
    for (int i = 1; i < 40; i += 2) {
        int length = snprintf(key, sizeof key, "k%d", i);
        jd_free(jd_get(root, key, (size_t)length));
    }
    CHECK(jd_size(root) == 20);
    for (size_t i = 0; i < 20; i++) {
        size_t length;
        const char *k = jd_key(root, i, &length);
        CHECK(length == strlen(k) && atoi(k + 1) == (int)i * 2 && jd_number(jd_at(root, i)) == (double)i * 2, "%s", k);
        CHECK(jd_parent(jd_at(root, i)) == root);
    }
    CHECK(jd_key(root, 20, NULL) == NULL && jd_at(root, 20) == NULL);
    jd_node *taken = jd_take(jd_get(root, "k0", 2));
    CHECK(jd_set(root, "k38", 3, taken) == JD_OK && jd_parent(taken) == root && jd_size(root) == 19);
    CHECK(jd_at(root, 18) == taken && jd_number(taken) == 0);
    jd_free(root);
}

static void test_aliases(void)
{
    jd_node *string = jd_new_string("hello world", 11);
    CHECK(jd_set_string(string, jd_text(string, NULL) + 6, 5) == JD_OK);
    expect_form(string, "\"world\"");
    CHECK(jd_set_string(string, jd_text(string, NULL), 5) == JD_OK && jd_set_string(string, jd_text(string, NULL) + 5, 0) == JD_OK);
    expect_form(string, "\"\"");
    CHECK(jd_set_string(string, NULL, 0) == JD_OK);
    jd_free(string);
    jd_node *root = parse("{\"a\":\"b\",\"b\":\"a\",\"c\":\"c\",\"d\":\"ee\"}");
    /* The key is the text of the value that goes away. */
    const char *text = jd_text(jd_get(root, "c", 1), NULL);
    CHECK(jd_set(root, text, 1, jd_new(JD_TRUE)) == JD_OK);
    /* The key is a key of the object, whose tables have to grow. */
    size_t length;
    CHECK(jd_set(root, jd_text(jd_get(root, "d", 1), NULL), 2, jd_new(JD_NULL)) == JD_OK);
    const char *key = jd_key(root, 1, &length);
    CHECK(jd_set(root, key, length, jd_new(JD_FALSE)) == JD_OK);
    key = jd_key(root, 4, &length);
    CHECK(jd_set(root, key, 1, jd_new_string(key, length)) == JD_OK);
    expect_form(root, "{\"a\":\"b\",\"b\":false,\"c\":true,\"d\":\"ee\",\"ee\":null,\"e\":\"ee\"}");
    CHECK(jd_set_string(jd_get(root, "e", 1), jd_key(root, 0, NULL), 1) == JD_OK);
    CHECK(jd_set_string(jd_get(root, "b", 1), "x", 1) == JD_TYPE);
    jd_free(root);
}

static void test_free_takes_out(void)
{
    jd_node *root = parse("{\"a\":[1,[2,3],4],\"b\":{\"c\":[5]}}");
    jd_free(jd_at(jd_get(root, "a", 1), 1));
    expect_form(root, "{\"a\":[1,4],\"b\":{\"c\":[5]}}");
    jd_free(jd_get(root, "a", 1));
    jd_free(jd_get(jd_get(root, "b", 1), "c", 1));
    expect_form(root, "{\"b\":{}}");
    jd_free(root);
    CHECK(guard_live() == 0);
}

static void test_write_into_small_buffers(void)
{
    static const char text[] = "{\"k\":[1.5,\"\\u0001\\n\xc3\xbc\",true,null],\"\":{}}";
    jd_node *root = parse(text);
    size_t length = sizeof text - 1;
    for (size_t size = 0; size <= length + 3; size++) {
        char *buffer = guard_room(size);
        CHECK(jd_write(root, buffer, size) == length, "size %zu", size);
        if (size > 0) {
            size_t part = size - 1 < length ? size - 1 : length;
            CHECK(memcmp(buffer, text, part) == 0 && buffer[part] == '\0', "size %zu", size);
        }
    }
    CHECK(jd_write(root, NULL, 0) == length);
    jd_free(root);
}

static void test_equal(void)
{
    static const struct { const char *a, *b; int same; } pairs[] = {
        {"{\"a\":1,\"b\":[2,{}]}", "{\"b\":[2,{}],\"a\":1.0}", 1}, {"[1,2]", "[2,1]", 0}, {"[1]", "[1,1]", 0}, {"[]", "{}", 0},
        {"\"a\"", "\"ab\"", 0}, {"\"ab\"", "\"a\"", 0}, {"\"a\\u0000b\"", "\"a\\u0000c\"", 0}, {"\"\"", "null", 0}, {"0", "-0", 1},
        {"{\"a\":1}", "{\"b\":1}", 0}, {"{\"a\":null}", "{\"a\":false}", 0}, {"true", "true", 1}, {"{\"a\\u0000\":1}", "{\"a\":1}", 0}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        jd_node *a = parse(pairs[i].a), *b = parse(pairs[i].b);
        CHECK(!!jd_equal(a, b) == pairs[i].same && !!jd_equal(b, a) == pairs[i].same, "%s and %s", pairs[i].a, pairs[i].b);
        jd_free(a);
        jd_free(b);
    }
}

/* Single allocations that fail: what is to be done, on a document of its own. */
struct fixture {
    jd_node *root, *extra;
    const char *text;
    size_t length;
};

static jd_error op_parse(struct fixture *f)
{
    jd_node *node;
    jd_error error = jd_parse(f->text, f->length, &node, NULL);
    CHECK((error == JD_OK) == (node != NULL));
    jd_free(node);
    return error;
}

static jd_error op_clone(struct fixture *f)
{
    jd_node *node;
    jd_error error = jd_clone(f->root, &node);
    CHECK((error == JD_OK) == (node != NULL));
    if (error == JD_OK)
        CHECK(jd_equal(node, f->root) && jd_parent(node) == NULL);
    jd_free(node);
    return error;
}

static jd_error op_insert(struct fixture *f)
{
    return jd_insert(jd_get(f->root, "full", 4), 1, f->extra);
}

static jd_error op_set_new(struct fixture *f)
{
    return jd_set(jd_get(f->root, "object", 6), "new", 3, f->extra);
}

static jd_error op_set_old(struct fixture *f)
{
    return jd_set(jd_get(f->root, "object", 6), "b", 1, f->extra);
}

static jd_error op_set_alias(struct fixture *f)
{
    return jd_set(jd_get(f->root, "object", 6), jd_key(f->root, 0, NULL), 4, f->extra);
}

static jd_error op_set_string(struct fixture *f)
{
    jd_node *string = jd_at(jd_get(f->root, "object", 6), 0);
    return jd_set_string(string, jd_text(string, NULL) + 1, 3);
}

static jd_error op_new(struct fixture *f)
{
    (void)f;
    jd_node *nodes[] = {jd_new_string("abc", 3), jd_new_number(1), jd_new(JD_OBJECT)};
    jd_error error = JD_OK;
    for (int i = 0; i < 3; i++) {
        if (nodes[i] == NULL)
            error = JD_NOMEM;
        jd_free(nodes[i]);
    }
    return error;
}

static void test_failing_allocations(void)
{
    static const struct { const char *name; jd_error (*call)(struct fixture *); } calls[] = {
        {"jd_parse", op_parse}, {"jd_clone", op_clone}, {"jd_insert", op_insert}, {"jd_set (new key)", op_set_new},
        {"jd_set (old key)", op_set_old}, {"jd_set (key of another)", op_set_alias}, {"jd_set_string", op_set_string}, {"jd_new", op_new}};
    static const char text[] = "{\"full\":[1,2,[3,\"x\"],4],\"object\":{\"a\":\"text\",\"b\":[true],\"c\":{\"d\":null},\"e\":1.25},"
                               "\"a\":\"1\",\"b\":2,\"c\":3,\"a\":[1,2,3,4,5],\"long\":0.33333333333333333333333333333333333333333333333333333333333333333333333333}";
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        for (size_t n = 1;; n++) {
            CHECK(n < 1000, "%s always fails", calls[i].name);
            struct fixture f = {parse(text), parse("[\"extra\"]"), guard_copy(text, sizeof text - 1), sizeof text - 1};
            jd_node *const extra = f.extra;
            char *before = form(f.root), *extra_before = form(f.extra);
            size_t live = guard_live();
            guard_fail_at = n;
            jd_error error = calls[i].call(&f);
            int reached = guard_fail_at == 0;
            guard_fail_at = 0;
            if (reached) {
                CHECK(error == JD_NOMEM, "%s, allocation %zu: %s", calls[i].name, n, names[error]);
                CHECK(guard_live() == live, "%s, allocation %zu: blocks %zu before, %zu after", calls[i].name, n, live, guard_live());
                CHECK(strcmp(form(f.root), before) == 0, "%s, allocation %zu: %s became %s", calls[i].name, n, before, form(f.root));
                CHECK(strcmp(form(extra), extra_before) == 0 && jd_parent(extra) == NULL);
                for (size_t k = 0; k < jd_size(f.root); k++)
                    CHECK(jd_parent(jd_at(f.root, k)) == f.root);
                error = calls[i].call(&f);
            }
            CHECK(error == JD_OK, "%s, after allocation %zu: %s", calls[i].name, n, names[error]);
            jd_node *again = parse(form(f.root));
            CHECK(jd_equal(again, f.root));
            jd_free(again);
            if (jd_parent(extra) == NULL)
                jd_free(extra);
            jd_free(f.root);
            CHECK(guard_live() == 0, "%s, allocation %zu: %zu blocks leaked", calls[i].name, n, guard_live());
            if (!reached)
                break;
        }
    }
}

static void test_random_changes(void)
{
    uint32_t state = 12345;
#define RANDOM(n) ((state = state * 1664525u + 1013904223u) >> 8) % (n)
    jd_node *roots[3] = {parse("{}"), parse("[]"), parse("{\"a\":[1,{\"b\":[]}]}")};
    for (int step = 0; step < 4000; step++) {
        jd_node *node = roots[RANDOM(3)];
        while (jd_size(node) > 0 && RANDOM(4) != 0)
            node = jd_at(node, RANDOM((uint32_t)jd_size(node)));
        jd_node *target = roots[RANDOM(3)];
        while (jd_size(target) > 0 && RANDOM(3) != 0)
            target = jd_at(target, RANDOM((uint32_t)jd_size(target)));
        char key[2] = {(char)('a' + RANDOM(6)), 0};
        jd_node *fresh = NULL;
        int is_root = node == roots[0] || node == roots[1] || node == roots[2];
        if (is_root || RANDOM(3) == 0) {
            static const char *const texts[] = {"1", "\"s\"", "[]", "{}", "[[2],{\"k\":null}]"};
            node = fresh = parse(texts[RANDOM(5)]);
        } else if (jd_size(jd_parent(node)) > 6) {
            jd_free(node);
            continue;
        } else {
            jd_take(node);
            fresh = node;
            /* The target may have been taken out with it. */
        }
        jd_error error = JD_TYPE;
        if (jd_kind(target) == JD_ARRAY)
            error = jd_insert(target, RANDOM((uint32_t)jd_size(target) + 1), node);
        else if (jd_kind(target) == JD_OBJECT)
            error = jd_set(target, key, 1, node);
        CHECK(error == JD_OK || error == JD_TYPE || error == JD_CYCLE || error == JD_DEEP);
        if (error != JD_OK) {
            CHECK(jd_parent(fresh) == NULL);
            jd_free(fresh);
        }
        if (step % 50 == 0) {
            for (int i = 0; i < 3; i++) {
                jd_node *copy, *again = parse(form(roots[i]));
                CHECK(jd_clone(roots[i], &copy) == JD_OK && jd_equal(copy, again));
                jd_free(copy);
                jd_free(again);
            }
        }
    }
    for (int i = 0; i < 3; i++)
        jd_free(roots[i]);
}

static const struct { const char *name; void (*run)(void); } tests[] = {
#define TEST(name) {#name, test_##name}
    TEST(values), TEST(syntax_errors), TEST(utf8), TEST(number_syntax), TEST(number_forms), TEST(every_prefix), TEST(bytes_changed),
    TEST(duplicate_keys), TEST(depth_of_texts), TEST(depth_by_hand), TEST(cycles), TEST(insert_and_take), TEST(objects), TEST(aliases),
    TEST(free_takes_out), TEST(write_into_small_buffers), TEST(equal), TEST(failing_allocations), TEST(random_changes),
};

int main(void)
{
    int failed = 0;
    int count = (int)(sizeof tests / sizeof *tests);
    for (int i = 0; i < count; i++) {
        fflush(stdout);
        pid_t child = fork();
        if (child < 0) {
            perror("fork");
            return 1;
        }
        if (child == 0) {
            alarm(60);
            tests[i].run();
            if (guard_live() != 0)
                guard_fail("  %zu blocks were not freed", guard_live());
            fflush(stdout);
            _exit(0);
        }
        int status;
        waitpid(child, &status, 0);
        if (WIFSIGNALED(status))
            printf("  ended by signal %d (%s)\n", WTERMSIG(status), strsignal(WTERMSIG(status)));
        if (status != 0) {
            printf("FAILED: %s\n", tests[i].name);
            failed++;
        }
    }
    printf("%d of %d tests passed\n", count - failed, count);
    return failed != 0;
}
