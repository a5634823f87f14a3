/* SPDX-License-Identifier: MIT */
#include "base/fail.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void make_printable(char *text)
{
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f)
            *text = '?';
}

printf_like(2, 0) static void format_text(struct fail *why, const char *format, va_list args)
{
    (void)vsnprintf(why->text, sizeof(why->text), format, args);
    make_printable(why->text);
}

int fail_set(struct fail *why, int err, const char *format, ...)
{
    if (why) {
        va_list args;
        va_start(args, format);
        format_text(why, format, args);
        va_end(args);
    }
    return -err;
}

int fail_errno(struct fail *why, int err, const char *format, ...)
{
    if (why) {
        va_list args;
        va_start(args, format);
        format_text(why, format, args);
        va_end(args);
        size_t used = strlen(why->text);
        (void)snprintf(why->text + used, sizeof(why->text) - used, ": %s", strerror(err));
    }
    return -err;
}

int fail_prefix(struct fail *why, int ret, const char *format, ...)
{
    if (why) {
        struct fail inner = *why;
        va_list args;
        va_start(args, format);
        format_text(why, format, args);
        va_end(args);
        size_t used = strlen(why->text);
        (void)snprintf(why->text + used, sizeof(why->text) - used, ": %s", fail_text(&inner, ret));
    }
    return ret;
}

const char *fail_text(const struct fail *why, int ret)
{
    if (why && why->text[0])
        return why->text;
    return strerror(ret < 0 ? -ret : ret);
}
