/* SPDX-License-Identifier: MIT */
#include "base/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void buf_init(struct buf *buf, size_t max_bytes)
{
    *buf = (struct buf){.max_bytes = max_bytes};
}

void buf_done(struct buf *buf)
{
    if (!buf)
        return;
    free(buf->data);
    buf_init(buf, buf->max_bytes);
}

/* Makes room for `more` bytes and the NUL. */
static int reserve(struct buf *buf, size_t more)
{
    if (more > buf->max_bytes || buf->len > buf->max_bytes - more)
        return -EMSGSIZE;
    size_t need = buf->len + more + 1;
    if (need <= buf->room)
        return 0;
    size_t room = buf->room ? buf->room : 64;
    while (room < need)
        room = room > (size_t)-1 / 2 ? need : room * 2;
    char *data = realloc(buf->data, room);
    if (!data)
        return -ENOMEM;
    buf->data = data;
    buf->room = room;
    return 0;
}

int buf_add(struct buf *buf, const void *data, size_t len)
{
    int r = reserve(buf, len);
    if (r < 0)
        return r;
    if (len)
        memcpy(buf->data + buf->len, data, len);
    buf->len += len;
    buf->data[buf->len] = '\0';
    return 0;
}

int buf_add_string(struct buf *buf, const char *string)
{
    return buf_add(buf, string, strlen(string));
}

int buf_add_zeros(struct buf *buf, size_t len)
{
    int r = reserve(buf, len);
    if (r < 0)
        return r;
    memset(buf->data + buf->len, 0, len + 1);
    buf->len += len;
    return 0;
}

int buf_printf(struct buf *buf, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    va_list again;
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, args);
    va_end(args);
    int r = len < 0 ? -EINVAL : reserve(buf, (size_t)len);
    if (r == 0) {
        (void)vsnprintf(buf->data + buf->len, (size_t)len + 1, format, again);
        buf->len += (size_t)len;
    }
    va_end(again);
    return r;
}

void buf_drop_front(struct buf *buf, size_t len)
{
    assert(len <= buf->len);
    if (!len)
        return;
    buf->len -= len;
    memmove(buf->data, buf->data + len, buf->len + 1);
}

void buf_clear(struct buf *buf)
{
    buf->len = 0;
    if (buf->data)
        buf->data[0] = '\0';
}

const char *buf_string(const struct buf *buf)
{
    return buf->data ? buf->data : "";
}

char *buf_take(struct buf *buf)
{
    char *data = buf->data ? buf->data : strdup("");
    if (data)
        buf_init(buf, buf->max_bytes);
    return data;
}
