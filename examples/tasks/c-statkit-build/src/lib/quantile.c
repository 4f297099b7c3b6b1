#include "statkit.h"

#include <math.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double sk_quantile(double *values, size_t n, double q)
{
    if (n == 0)
        return 0.0;
    qsort(values, n, sizeof *values, compare);
    double position = q * (double)(n - 1);
    double below = floor(position);
    size_t index = (size_t)below;
    if (index + 1 >= n)
        return values[n - 1];
    return values[index] + (position - below) * (values[index + 1] - values[index]);
}
