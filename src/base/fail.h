/* SPDX-License-Identifier: MIT */
/*
 * The sentence that goes with an errno.
 *
 * Convention of the whole project: a function that can fail returns `int`,
 * >= 0 for success or a negative errno for control flow, and where the reason
 * is worth telling takes a last argument `struct fail *why`.  `why` belongs to
 * the caller and may be NULL.  It is set where the failure is born, prefixed on
 * the way up, and untouched on success.  Lower layers never print it; the edges
 * (stderr, .dvolfs/log, the receipt of a restore) do, once.
 */
#ifndef DVOLFS_BASE_FAIL_H
#define DVOLFS_BASE_FAIL_H

#include "base/cleanup.h"

#include <stddef.h>

#define FAIL_TEXT_BYTES 1024

struct fail {
    char text[FAIL_TEXT_BYTES]; /* NUL-terminated, one line, no full stop; cut if too long */
};

#define FAIL_INIT                                                                                  \
    {                                                                                              \
        {                                                                                          \
            0                                                                                      \
        }                                                                                          \
    }

/*
 * Writes the formatted sentence and returns -err, so that a failing path is
 * `return fail_set(why, EINVAL, "no %s", what);`.  err is a positive errno.
 * Control characters in the result are replaced by '?': names come from
 * foreign archives and the sentence ends up on terminals.
 */
int fail_set(struct fail *why, int err, const char *format, ...) printf_like(3, 4);

/* As fail_set, followed by ": " and strerror(err). */
int fail_errno(struct fail *why, int err, const char *format, ...) printf_like(3, 4);

/* Puts a formatted prefix and ": " before the sentence; returns ret unchanged. */
int fail_prefix(struct fail *why, int ret, const char *format, ...) printf_like(3, 4);

/* The sentence, or strerror(-ret) where none was set.  Valid while why is. */
const char *fail_text(const struct fail *why, int ret);

#endif
