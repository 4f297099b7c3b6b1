#include "statkit.h"

int sk_precision = 6;

int sk_format(char *buffer, size_t size, double value)
{
    return snprintf(buffer, size, "%.*g", sk_precision, value);
}
