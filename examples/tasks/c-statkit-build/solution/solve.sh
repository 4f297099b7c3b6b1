#!/bin/sh
set -eu
cat > src/Makefile <<'E'
CC = gcc
AR = ar
PREFIX = $(HOME)/.local

# CFLAGS, CPPFLAGS and LDFLAGS are the caller's; these are always needed.
CFLAGS ?= -O2
SK_CFLAGS = -std=c11 -Wall -Wextra
SK_CPPFLAGS = -Iinclude -MMD -MP

LIB_OBJS = $(patsubst %.c,%.o,$(sort $(wildcard lib/*.c)))
TOOL_OBJS = $(patsubst %.c,%.o,$(sort $(wildcard tools/*.c)))
DEPS = $(LIB_OBJS:.o=.d) $(TOOL_OBJS:.o=.d)

.PHONY: all install clean
.DELETE_ON_ERROR:
.SUFFIXES:

all: statcli lib/libstatkit.a

statcli: $(TOOL_OBJS) lib/libstatkit.a
	$(CC) $(SK_CFLAGS) $(CFLAGS) $(LDFLAGS) -o $@ $(TOOL_OBJS) -Llib -lstatkit -lm

# Made anew each time, so that no object of a removed source stays in it.
lib/libstatkit.a: $(LIB_OBJS)
	rm -f $@
	$(AR) rcs $@ $(LIB_OBJS)

include/sk_version.h: VERSION
	version=$$(cat VERSION) && printf '#define SK_VERSION "%s"\n' "$$version" > $@

# Before the first build nothing is known of who includes the made header.
%.o: %.c | include/sk_version.h
	$(CC) $(SK_CFLAGS) $(CFLAGS) $(SK_CPPFLAGS) $(CPPFLAGS) -c -o $@ $<

install: all
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/lib" "$(DESTDIR)$(PREFIX)/include"
	install -m 755 statcli "$(DESTDIR)$(PREFIX)/bin/statcli"
	install -m 644 lib/libstatkit.a "$(DESTDIR)$(PREFIX)/lib/libstatkit.a"
	install -m 644 include/statkit.h "$(DESTDIR)$(PREFIX)/include/statkit.h"

clean:
	rm -f $(LIB_OBJS) $(TOOL_OBJS) $(DEPS) lib/libstatkit.a include/sk_version.h statcli

-include $(DEPS)
E
# The header declares the variable (format.c defines it), keeps the inline
# function in every file that uses it, and is fit for C++.
sed -i \
  -e 's/^int sk_precision;$/extern int sk_precision;/' \
  -e 's/^inline double sk_square/static inline double sk_square/' \
  src/include/statkit.h
awk '
  /^#include <stddef.h>$/ { print; print ""; print "#ifdef __cplusplus"; print "extern \"C\" {"; print "#endif"; next }
  /^#endif$/ { print "#ifdef __cplusplus"; print "}"; print "#endif"; print "" }
  { print }
' src/include/statkit.h > src/include/statkit.h.new
mv src/include/statkit.h.new src/include/statkit.h
# format.c uses snprintf
sed -i 's/^#include "statkit.h"$/&\n\n#include <stdio.h>/' src/lib/format.c
