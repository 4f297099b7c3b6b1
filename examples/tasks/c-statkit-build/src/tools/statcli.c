#include "options.h"
#include "sk_version.h"
#include "statkit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double *read_values(FILE *in, size_t *n)
{
    size_t room = 16;
    double *values = malloc(room * sizeof *values);
    *n = 0;
    while (values != NULL && fscanf(in, "%lf", &values[*n]) == 1) {
        if (++*n == room) {
            room *= 2;
            values = realloc(values, room * sizeof *values);
        }
    }
    return values;
}

static int report(const char *what, double *values, size_t n)
{
    char text[64];
    double result;
    if (strcmp(what, "mean") == 0)
        result = sk_mean(values, n);
    else if (strcmp(what, "variance") == 0)
        result = sk_variance(values, n);
    else if (strcmp(what, "stddev") == 0)
        result = sk_stddev(values, n);
    else if (what[0] == 'q')
        result = sk_quantile(values, n, atof(what + 1) / 100.0);
    else
        return -1;
    sk_format(text, sizeof text, result);
    printf("%s %s\n", what, text);
    return 0;
}

int main(int argc, char **argv)
{
    struct options options = {6, 0};
    int first = parse_options(&options, argc, argv);
    if (options.version) {
        printf("statcli %s (library %s)\n", SK_VERSION, sk_version());
        return 0;
    }
    if (first < 0 || first == argc) {
        fprintf(stderr, "usage: statcli [--version] [-p DIGITS] mean|variance|stddev|qNN...\n");
        return 2;
    }
    sk_precision = options.precision;
    size_t n;
    double *values = read_values(stdin, &n);
    int status = values == NULL;
    for (int i = first; i < argc && status == 0; i++) {
        if (report(argv[i], values, n) != 0) {
            fprintf(stderr, "statcli: unknown statistic %s\n", argv[i]);
            status = 2;
        }
    }
    free(values);
    return status;
}
