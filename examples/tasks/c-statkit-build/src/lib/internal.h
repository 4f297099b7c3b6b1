/* Shared by the files of the library, for none of its users. */
#ifndef SK_INTERNAL_H
#define SK_INTERNAL_H

#include <stddef.h>

/* A sum with a correction term (Kahan), so that small terms are not lost. */
struct sk_sum {
    double total;
    double lost;
};

void sk_sum_add(struct sk_sum *sum, double term);

#endif
