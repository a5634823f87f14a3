/* SPDX-License-Identifier: MIT */
#include "base/log.h"

#include "base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LINE_MAX_BYTES 2048

struct log {
    pthread_mutex_t lock;
    struct buf text;
    uint64_t generation;
    bool echo;
};

struct log *log_new(bool echo)
{
    struct log *log = calloc(1, sizeof(*log));
    if (!log)
        return NULL;
    (void)pthread_mutex_init(&log->lock, NULL);
    buf_init(&log->text, LOG_MAX_BYTES);
    log->echo = echo;
    return log;
}

void log_free(struct log *log)
{
    if (!log)
        return;
    buf_done(&log->text);
    (void)pthread_mutex_destroy(&log->lock);
    free(log);
}

/* Keeps the newer half, from the start of a line. */
static void drop_older_half(struct log *log)
{
    const char *middle = log->text.data + log->text.len / 2;
    const char *line = memchr(middle, '\n', log->text.len - log->text.len / 2);
    buf_drop_front(&log->text, line ? (size_t)(line + 1 - log->text.data) : log->text.len);
    log->generation++;
}

printf_like(3, 0) static size_t
    format_line(char *line, size_t room, const char *format, va_list args)
{
    time_t now = time(NULL);
    struct tm tm;
    (void)gmtime_r(&now, &tm);
    size_t len = strftime(line, room, "%Y-%m-%dT%H:%M:%SZ ", &tm);
    int n = vsnprintf(line + len, room - len - 1, format, args);
    if (n > 0)
        len += (size_t)n < room - len - 1 ? (size_t)n : room - len - 2;
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = '?';
    line[len++] = '\n';
    return len;
}

void log_event(struct log *log, const char *format, ...)
{
    if (!log)
        return;
    char line[LINE_MAX_BYTES];
    va_list args;
    va_start(args, format);
    size_t len = format_line(line, sizeof(line), format, args);
    va_end(args);
    scoped_lock(&log->lock);
    if (log->text.len + len > LOG_MAX_BYTES)
        drop_older_half(log);
    int r = buf_add(&log->text, line, len);
    (void)r; /* out of memory: the line is lost, as the header says */
    if (log->echo)
        (void)fwrite(line, 1, len, stderr);
}

void log_extent(struct log *log, uint64_t *ret_bytes, uint64_t *ret_generation)
{
    scoped_lock(&log->lock);
    *ret_bytes = log->text.len;
    *ret_generation = log->generation;
}

size_t log_read(struct log *log, uint64_t generation, uint64_t offset, void *data, size_t len)
{
    scoped_lock(&log->lock);
    if (generation != log->generation || offset >= log->text.len)
        return 0;
    size_t left = log->text.len - (size_t)offset;
    if (len > left)
        len = left;
    memcpy(data, log->text.data + offset, len);
    return len;
}
