#ifndef OPTIONS_H
#define OPTIONS_H

struct options {
    int precision;
    int version;
};

/* Index of the first argument that is no option, -1 if an option is wrong. */
int parse_options(struct options *options, int argc, char **argv);

#endif
