/* SPDX-License-Identifier: MIT */
#include "tar/convert.h"

#include "base/buf.h"
#include "tar/attribute.h"
#include "tar/default_acls.h"
#include "tar/header.h"
#include "tar/reader.h"

#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

/* The reader takes no larger ones. */
#define HEADER_MAX_BYTES (32 * 1024 * 1024)

struct tar_convert {
    struct tar_reader *reader;
    struct default_acls *put_off; /* NULL: to be kept */
    char *prefix;
    struct buf header;
    uint64_t zeros_left; /* to be handed out, and then these: */
    const char *bytes;
    size_t bytes_left;
    uint64_t position;   /* in the member's data, past all of the above */
    uint64_t size_bytes; /* of the member's data */
    bool in_member;
    bool at_end; /* nothing follows what is left */
    int error;   /* the first one stays */
};

int tar_convert_open(int fd, const char *prefix, enum tar_convert_use use,
                     struct tar_convert **ret_convert, struct fail *why)
{
    struct tar_convert *convert cleanup_tar_convert = calloc(1, sizeof(*convert));
    if (!convert)
        return -ENOMEM;
    buf_init(&convert->header, HEADER_MAX_BYTES);
    convert->prefix = strdup(prefix);
    if (!convert->prefix)
        return -ENOMEM;
    if (use == TAR_CONVERT_TO_UNPACK && !(convert->put_off = default_acls_new()))
        return -ENOMEM;
    int r = tar_reader_open(fd, &convert->reader, why);
    if (r < 0)
        return r;
    *ret_convert = take(convert);
    return 0;
}

void tar_convert_close(struct tar_convert *convert)
{
    if (!convert)
        return;
    tar_reader_close(convert->reader);
    default_acls_free(convert->put_off);
    buf_done(&convert->header);
    free(convert->prefix);
    free(convert);
}

static int write_header(struct tar_convert *convert, const struct tar_entry *entry,
                        struct fail *why)
{
    buf_clear(&convert->header);
    int r = tar_header_write(&convert->header, convert->prefix, entry);
    if (r < 0)
        return fail_errno(why, -r, "%s", entry->name);
    convert->bytes = convert->header.data;
    convert->bytes_left = convert->header.len;
    return 0;
}

/* What was put off, and then the closing blocks. */
static int next_directory(struct tar_convert *convert, struct fail *why)
{
    struct tar_entry entry cleanup_tar_entry = {0};
    int r = convert->put_off ? default_acls_next(convert->put_off, &entry) : 0;
    if (r != 0)
        return r < 0 ? r : write_header(convert, &entry, why);
    convert->zeros_left = TAR_END_BYTES;
    convert->at_end = true;
    return 0;
}

static int prepare_to_unpack(struct tar_convert *convert, struct tar_entry *entry)
{
    if (!convert->put_off)
        return 0;
    (void)attribute_remove_foreign(entry); /* tar_check has counted them */
    return default_acls_put_off(convert->put_off, entry);
}

static int next_member(struct tar_convert *convert, struct fail *why)
{
    struct tar_entry entry cleanup_tar_entry = {0};
    int r = tar_reader_next(convert->reader, &entry, why);
    if (r <= 0)
        return r < 0 ? r : next_directory(convert, why);
    r = prepare_to_unpack(convert, &entry);
    if (r == 0)
        r = write_header(convert, &entry, why);
    if (r < 0)
        return r;
    convert->position = 0;
    convert->size_bytes = entry.size_bytes;
    convert->in_member = true;
    return 0;
}

/* The next run with the hole before it, or the hole at the end and the padding. */
static int next_run(struct tar_convert *convert, struct fail *why)
{
    const void *data;
    size_t bytes;
    uint64_t offset;
    int r = tar_reader_data(convert->reader, &data, &bytes, &offset, why);
    if (r < 0)
        return r;
    if (r == 0) {
        convert->zeros_left =
            convert->size_bytes - convert->position + tar_padding_bytes(convert->size_bytes);
        convert->in_member = false;
        return 0;
    }
    convert->zeros_left = offset - convert->position;
    convert->bytes = data;
    convert->bytes_left = bytes;
    convert->position = offset + bytes;
    return 0;
}

/* Hands out what is there, at most max_bytes. */
static size_t drain(struct tar_convert *convert, char *out, size_t max_bytes)
{
    if (convert->zeros_left > 0) {
        size_t n = max_bytes < convert->zeros_left ? max_bytes : (size_t)convert->zeros_left;
        memset(out, 0, n);
        convert->zeros_left -= n;
        return n;
    }
    size_t n = max_bytes < convert->bytes_left ? max_bytes : convert->bytes_left;
    if (n == 0)
        return 0;
    memcpy(out, convert->bytes, n);
    convert->bytes += n;
    convert->bytes_left -= n;
    return n;
}

ssize_t tar_convert_read(struct tar_convert *convert, void *out, size_t max_bytes, struct fail *why)
{
    size_t done = 0;
    while (done < max_bytes && convert->error == 0) {
        size_t n = drain(convert, (char *)out + done, max_bytes - done);
        done += n;
        if (n > 0)
            continue;
        if (convert->at_end)
            break;
        convert->error = convert->in_member ? next_run(convert, why) : next_member(convert, why);
    }
    return convert->error < 0 ? convert->error : (ssize_t)done;
}
