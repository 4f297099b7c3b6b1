#include "guard.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define REGION ((size_t)8 << 30)
#define MAX_PAGES (REGION / PAGE)

size_t guard_fail_at;

static char *region;
static size_t next_page = 1;
static size_t live;

/* What is known of a block, in a table by its first page. */
struct block {
    size_t size;
    size_t pages;
    char *address; /* NULL once it is freed */
};
static struct block *blocks;

void guard_fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    printf("\n");
    fflush(stdout);
    _exit(1);
}

static void setup(void)
{
    if (region != NULL)
        return;
    region = mmap(NULL, REGION, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    blocks = mmap(NULL, MAX_PAGES * sizeof *blocks, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (region == MAP_FAILED || blocks == MAP_FAILED)
        guard_fail("the test cannot reserve its address space");
}

/* As large as the size allows: so the last byte is the last of a page. */
static size_t alignment(size_t size)
{
    size_t a = 16;
    while (size % a != 0)
        a /= 2;
    return a;
}

static char *take(size_t size, size_t *first_page, size_t *pages)
{
    setup();
    *pages = (size + PAGE - 1) / PAGE;
    if (*pages == 0)
        *pages = 1;
    if (size > REGION / 2 || next_page + *pages + 1 > MAX_PAGES)
        return NULL;
    *first_page = next_page;
    next_page += *pages + 1;
    char *start = region + *first_page * PAGE;
    if (mprotect(start, *pages * PAGE, PROT_READ | PROT_WRITE) != 0)
        guard_fail("the test has too many blocks at once");
    size_t rest = *pages * PAGE - size;
    memset(start, 0xA5, *pages * PAGE);
    return start + rest - rest % (size == 0 ? 16 : alignment(size));
}

char *guard_room(size_t size)
{
    size_t first, pages;
    return take(size, &first, &pages);
}

char *guard_copy(const char *bytes, size_t length)
{
    char *copy = guard_room(length);
    if (length > 0)
        memcpy(copy, bytes, length);
    return copy;
}

size_t guard_live(void)
{
    return live;
}

static int fails(void)
{
    return guard_fail_at > 0 && --guard_fail_at == 0;
}

static void *allocate(size_t size)
{
    size_t first, pages;
    char *address = take(size, &first, &pages);
    if (address == NULL)
        return NULL;
    blocks[first] = (struct block){size, pages, address};
    live++;
    memset(address, 0xCD, size);
    return address;
}

static struct block *lookup(void *address, const char *what)
{
    size_t offset = (size_t)((char *)address - region);
    if (region == NULL || (char *)address < region || offset >= REGION)
        guard_fail("%s of %p, which is no block", what, address);
    for (size_t page = offset / PAGE; page > 0; page--) {
        struct block *block = &blocks[page];
        if (block->pages > 0) {
            if (page + block->pages > offset / PAGE && block->address == NULL)
                guard_fail("%s of a block that was freed before", what);
            if (block->address == address)
                return block;
            break;
        }
    }
    guard_fail("%s of an address within a block", what);
}

static void release(struct block *block)
{
    size_t page = (size_t)(block - blocks);
    char *start = region + page * PAGE;
    for (char *c = start; c < block->address; c++)
        if ((unsigned char)*c != 0xA5)
            guard_fail("something was written before the start of a block of %zu bytes", block->size);
    madvise(start, block->pages * PAGE, MADV_DONTNEED);
    mprotect(start, block->pages * PAGE, PROT_NONE);
    block->address = NULL;
    live--;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : allocate(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    if (fails() || (size != 0 && n > SIZE_MAX / size))
        return NULL;
    void *address = allocate(n * size);
    if (address != NULL)
        memset(address, 0, n * size);
    return address;
}

void *__wrap_realloc(void *old, size_t size)
{
    struct block *block = old == NULL ? NULL : lookup(old, "realloc");
    if (fails())
        return NULL;
    void *address = allocate(size);
    if (address != NULL && block != NULL) {
        memcpy(address, old, block->size < size ? block->size : size);
        release(block);
    }
    return address;
}

void __wrap_free(void *address)
{
    if (address != NULL)
        release(lookup(address, "free"));
}
