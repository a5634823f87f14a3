/* SPDX-License-Identifier: MIT */
/* What the fuzzers of this directory share. */
#ifndef DVOLFS_TESTS_FUZZ_FUZZ_H
#define DVOLFS_TESTS_FUZZ_FUZZ_H

#include "base/cleanup.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What does not hold is a finding. */
#define require(what) ((what) ? (void)0 : require_failed(#what, __FILE__, __LINE__))

static inline void require_failed(const char *what, const char *file, int line)
{
    (void)fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    abort();
}

/* A file of these bytes. */
static inline int file_of(const uint8_t *data, size_t size)
{
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    return fd;
}

#endif
