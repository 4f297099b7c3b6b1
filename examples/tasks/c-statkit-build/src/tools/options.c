#include "options.h"

#include <stdlib.h>
#include <string.h>

int parse_options(struct options *options, int argc, char **argv)
{
    int i = 1;
    while (i < argc && argv[i][0] == '-') {
        if (strcmp(argv[i], "--version") == 0) {
            options->version = 1;
        } else if (strcmp(argv[i], "-p") == 0 && i + 1 < argc) {
            options->precision = atoi(argv[++i]);
        } else {
            return -1;
        }
        i++;
    }
    return i;
}
