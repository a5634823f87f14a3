/* SPDX-License-Identifier: MIT */
/*
 * A growable array of bytes that knows its own limit: a buffer cannot be made
 * without saying how large it may get, because most of what is put in one
 * comes from outside.
 *
 * Not locked: one thread at a time.  After an error the contents are what they
 * were before the call.
 */
#ifndef DVOLFS_BASE_BUF_H
#define DVOLFS_BASE_BUF_H

#include "base/cleanup.h"

#include <stddef.h>

struct buf {
    char *data; /* NUL-terminated one past len once anything was added; else NULL */
    size_t len;
    size_t room;      /* allocated bytes */
    size_t max_bytes; /* len never exceeds this */
};

/* An empty buffer that may grow to max_bytes.  Allocates nothing. */
void buf_init(struct buf *buf, size_t max_bytes);

/* Frees the contents; the buffer is as after buf_init.  NULL is allowed. */
void buf_done(struct buf *buf);
#define cleanup_buf cleanup(buf_done)

/* Adds len bytes.  -ENOMEM; -EMSGSIZE where max_bytes would be exceeded. */
must_check int buf_add(struct buf *buf, const void *data, size_t len);

/* Adds a string without its NUL, or formatted text.  Errors as buf_add. */
must_check int buf_add_string(struct buf *buf, const char *string);
must_check int buf_printf(struct buf *buf, const char *format, ...) printf_like(2, 3);

/* Adds len zero bytes.  Errors as buf_add. */
must_check int buf_add_zeros(struct buf *buf, size_t len);

/* Drops the first `len` bytes (len <= buf->len). */
void buf_drop_front(struct buf *buf, size_t len);

/* Empties the buffer, keeping its memory for the next use. */
void buf_clear(struct buf *buf);

/* The contents as a string (never NULL; "" when empty).  Valid until the next change. */
const char *buf_string(const struct buf *buf);

/* Hands the malloc'ed contents out and empties the buffer; NULL when out of memory. */
must_check char *buf_take(struct buf *buf);

#endif
