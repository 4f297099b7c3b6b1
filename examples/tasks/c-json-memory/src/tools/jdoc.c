/* jdoc - print a JSON document, or a part of it */
#include "jdoc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_all(FILE *in, size_t *length)
{
    size_t room = 4096;
    char *text = malloc(room);
    *length = 0;
    while (text != NULL) {
        size_t n = fread(text + *length, 1, room - *length, in);
        *length += n;
        if (n == 0)
            return text;
        if (*length == room) {
            char *more = realloc(text, room *= 2);
            if (more == NULL)
                free(text);
            text = more;
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    size_t length, where = 0;
    jd_node *root = NULL;
    char *text = read_all(stdin, &length);
    jd_error error = text == NULL ? JD_NOMEM : jd_parse(text, length, &root, &where);
    free(text);
    if (error != JD_OK) {
        fprintf(stderr, "jdoc: error %d at byte %zu\n", (int)error, where);
        return 1;
    }
    const jd_node *node = root;
    for (int i = 1; i < argc && node != NULL; i++) {
        if (jd_kind(node) == JD_OBJECT)
            node = jd_get(node, argv[i], strlen(argv[i]));
        else
            node = jd_at(node, strtoul(argv[i], NULL, 10));
    }
    int status = 1;
    if (node != NULL) {
        size_t size = jd_write(node, NULL, 0) + 1;
        char *out = malloc(size);
        if (out != NULL) {
            jd_write(node, out, size);
            puts(out);
            free(out);
            status = 0;
        }
    }
    jd_free(root);
    return status;
}
