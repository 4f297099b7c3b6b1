/* statkit - small statistics */
#ifndef STATKIT_H
#define STATKIT_H

#include <stddef.h>

/* Number of significant digits sk_format() writes, 6 unless changed. */
int sk_precision;

typedef struct {
    double low;     /* lower edge of the first bin */
    double width;   /* of every bin */
    size_t bins;
    unsigned long *count;
} sk_hist;

/* Square, for sums of squares. */
inline double sk_square(double x)
{
    return x * x;
}

double sk_mean(const double *values, size_t n);
/* Sample variance (n - 1); 0 for fewer than two values. */
double sk_variance(const double *values, size_t n);
double sk_stddev(const double *values, size_t n);
/* The q-quantile (0 <= q <= 1), linear between neighbours; sorts values. */
double sk_quantile(double *values, size_t n, double q);

/* 0, or -1 if there is no memory. */
int sk_hist_init(sk_hist *hist, double low, double high, size_t bins);
/* Counts a value; 0, or -1 if it is outside. */
int sk_hist_add(sk_hist *hist, double value);
void sk_hist_free(sk_hist *hist);

/* Writes value with sk_precision digits; returns what snprintf returns. */
int sk_format(char *buffer, size_t size, double value);
const char *sk_version(void);

#endif
