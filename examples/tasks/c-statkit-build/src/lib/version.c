#include "sk_version.h"
#include "statkit.h"

const char *sk_version(void)
{
    return SK_VERSION;
}
