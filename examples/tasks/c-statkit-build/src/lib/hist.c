#include "statkit.h"

#include <math.h>
#include <stdlib.h>

int sk_hist_init(sk_hist *hist, double low, double high, size_t bins)
{
    hist->low = low;
    hist->width = (high - low) / (double)bins;
    hist->bins = bins;
    hist->count = calloc(bins, sizeof *hist->count);
    return hist->count == NULL ? -1 : 0;
}

int sk_hist_add(sk_hist *hist, double value)
{
    double bin = floor((value - hist->low) / hist->width);
    if (bin < 0 || bin >= (double)hist->bins)
        return -1;
    hist->count[(size_t)bin]++;
    return 0;
}

void sk_hist_free(sk_hist *hist)
{
    free(hist->count);
    hist->count = NULL;
    hist->bins = 0;
}
