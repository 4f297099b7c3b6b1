#include "internal.h"
#include "statkit.h"

#include <math.h>

void sk_sum_add(struct sk_sum *sum, double term)
{
    double corrected = term - sum->lost;
    double next = sum->total + corrected;
    sum->lost = (next - sum->total) - corrected;
    sum->total = next;
}

double sk_mean(const double *values, size_t n)
{
    struct sk_sum sum = {0.0, 0.0};
    for (size_t i = 0; i < n; i++)
        sk_sum_add(&sum, values[i]);
    return n == 0 ? 0.0 : sum.total / (double)n;
}

double sk_variance(const double *values, size_t n)
{
    if (n < 2)
        return 0.0;
    struct sk_sum sum = {0.0, 0.0};
    double mean = sk_mean(values, n);
    for (size_t i = 0; i < n; i++)
        sk_sum_add(&sum, sk_square(values[i] - mean));
    return sum.total / (double)(n - 1);
}

double sk_stddev(const double *values, size_t n)
{
    return sqrt(sk_variance(values, n));
}
