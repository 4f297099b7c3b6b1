/* An allocator that notices every misuse.
 *
 * Each block ends where a page begins that cannot be accessed, so that reading or
 * writing one byte too many ends the process; so does touching a freed block, as
 * no address is used twice. Blocks are filled with a pattern first.
 */
#ifndef GUARD_H
#define GUARD_H

#include <stddef.h>

/* Lets the n-th allocation from now on fail (0: none). */
extern size_t guard_fail_at;
/* Blocks allocated and not freed. */
size_t guard_live(void);
/* A copy of some bytes that ends at an inaccessible page; it is no block. */
char *guard_copy(const char *bytes, size_t length);
/* Room that ends at an inaccessible page; it is no block. */
char *guard_room(size_t size);
/* Ends the process with a message. */
void guard_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

#endif
