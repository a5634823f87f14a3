/* SPDX-License-Identifier: MIT */
#include "tar/stream.h"

#include <archive.h>
#include <archive_entry.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <zlib.h>

#define PIECE_BYTES (128 * 1024)
#define MAGIC_MAX 6

struct tar_stream {
    const struct kind *kind;
    int fd;
    off_t offset; /* of the next pread */
    bool at_end;
    z_stream gzip;
    bool in_gzip_member;
    struct archive *raw;
    int read_error; /* of pread, within libarchive */
    unsigned char in[PIECE_BYTES];
    unsigned char out[PIECE_BYTES];
};

struct kind {
    const char *name;
    unsigned char magic[MAGIC_MAX];
    size_t magic_bytes;
    unsigned char ignored_bits; /* of the first byte */
    int (*add_filter)(struct archive *raw);
    int filter_code;
    int (*open)(struct tar_stream *stream, struct fail *why);
    ssize_t (*next)(struct tar_stream *stream, const void **ret_bytes, struct fail *why);
};

static ssize_t read_piece(struct tar_stream *stream, struct fail *why)
{
    ssize_t n;
    do
        n = pread(stream->fd, stream->in, sizeof(stream->in), stream->offset);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return fail_errno(why, errno, "cannot read the archive");
    stream->offset += n;
    return n;
}

/* Only zeros may follow the compressed data, which ends at `offset`. */
static int check_rest(struct tar_stream *stream, off_t offset, struct fail *why)
{
    stream->offset = offset;
    ssize_t n;
    while ((n = read_piece(stream, why)) > 0)
        for (ssize_t i = 0; i < n; i++)
            if (stream->in[i])
                return fail_set(why, EILSEQ, "something follows the %s data's end",
                                stream->kind->name);
    stream->at_end = n == 0;
    return (int)n;
}

static int plain_open(unused_arg struct tar_stream *stream, unused_arg struct fail *why)
{
    return 0;
}

static ssize_t plain_next(struct tar_stream *stream, const void **ret_bytes, struct fail *why)
{
    ssize_t n = read_piece(stream, why);
    if (n > 0)
        *ret_bytes = stream->in;
    return n;
}

static int gzip_open(struct tar_stream *stream, unused_arg struct fail *why)
{
    enum { gzip_only = 16 };
    return inflateInit2(&stream->gzip, MAX_WBITS + gzip_only) == Z_OK ? 0 : -ENOMEM;
}

/* Makes sure that there is input: 1, or 0 at the sound end of the file. */
static int gzip_fill(struct tar_stream *stream, struct fail *why)
{
    z_stream *gzip = &stream->gzip;
    if (gzip->avail_in == 0) {
        ssize_t n = read_piece(stream, why);
        if (n < 0)
            return (int)n;
        if (n == 0 && stream->in_gzip_member)
            return fail_set(why, EILSEQ, "the gzip data is cut short");
        gzip->next_in = stream->in;
        gzip->avail_in = (unsigned)n;
        stream->at_end = n == 0;
    }
    if (!stream->at_end && !stream->in_gzip_member && gzip->next_in[0] == 0)
        return check_rest(stream, stream->offset - gzip->avail_in, why);
    return !stream->at_end;
}

static int gzip_step(struct tar_stream *stream, struct fail *why)
{
    z_stream *gzip = &stream->gzip;
    if (!stream->in_gzip_member && inflateReset(gzip) != Z_OK)
        return fail_set(why, EILSEQ, "the gzip data cannot be read");
    int r = inflate(gzip, Z_NO_FLUSH);
    stream->in_gzip_member = r != Z_STREAM_END;
    if (r == Z_OK || r == Z_STREAM_END || r == Z_BUF_ERROR)
        return 0;
    if (r == Z_MEM_ERROR)
        return -ENOMEM;
    return fail_set(why, EILSEQ, "the gzip data is damaged: %s", gzip->msg ? gzip->msg : "?");
}

static ssize_t gzip_next(struct tar_stream *stream, const void **ret_bytes, struct fail *why)
{
    z_stream *gzip = &stream->gzip;
    gzip->next_out = stream->out;
    gzip->avail_out = sizeof(stream->out);
    while (gzip->avail_out == sizeof(stream->out)) {
        int r = gzip_fill(stream, why);
        if (r > 0)
            r = gzip_step(stream, why);
        if (r < 0 || stream->at_end)
            return r;
    }
    *ret_bytes = stream->out;
    return (ssize_t)sizeof(stream->out) - gzip->avail_out;
}

static la_ssize_t raw_read(unused_arg struct archive *raw, void *data, const void **ret_bytes)
{
    struct tar_stream *stream = data;
    ssize_t n = read_piece(stream, NULL);
    if (n < 0)
        stream->read_error = (int)-n;
    *ret_bytes = stream->in;
    return n < 0 ? ARCHIVE_FATAL : n;
}

static int raw_fail(struct tar_stream *stream, struct fail *why)
{
    if (stream->read_error)
        return fail_errno(why, stream->read_error, "cannot read the archive");
    if (archive_errno(stream->raw) == ENOMEM)
        return fail_set(why, ENOMEM, "not enough memory to read the archive");
    const char *text = archive_error_string(stream->raw);
    return fail_set(why, EILSEQ, "the %s data is damaged or cut short: %s", stream->kind->name,
                    text ? text : "it ends too early");
}

static int raw_open(struct tar_stream *stream, struct fail *why)
{
    struct archive_entry *unused;
    stream->raw = archive_read_new();
    if (!stream->raw)
        return -ENOMEM;
    if (archive_read_support_format_raw(stream->raw) != ARCHIVE_OK ||
        stream->kind->add_filter(stream->raw) != ARCHIVE_OK || /* a warning: by a program */
        archive_read_open(stream->raw, stream, NULL, raw_read, NULL) != ARCHIVE_OK ||
        archive_read_next_header(stream->raw, &unused) != ARCHIVE_OK)
        return raw_fail(stream, why);
    /* The filter and the file itself; libarchive unpacks again where it can. */
    if (archive_filter_count(stream->raw) != 2 ||
        archive_filter_code(stream->raw, 0) != stream->kind->filter_code)
        return fail_set(why, EILSEQ, "the archive is not compressed with %s once",
                        stream->kind->name);
    return 0;
}

static ssize_t raw_next(struct tar_stream *stream, const void **ret_bytes, struct fail *why)
{
    size_t n = 0;
    la_int64_t offset = 0;
    int r;
    do
        r = archive_read_data_block(stream->raw, ret_bytes, &n, &offset);
    while (r == ARCHIVE_OK && n == 0);
    if (r == ARCHIVE_OK)
        return (ssize_t)n;
    if (r != ARCHIVE_EOF)
        return raw_fail(stream, why);
    return check_rest(stream, archive_filter_bytes(stream->raw, -1), why);
}

/* The first that fits is used. */
static const struct kind kinds[] = {
    {.name = "gzip", .magic = "\x1f\x8b", .magic_bytes = 2, .open = gzip_open, .next = gzip_next},
    {.name = "bzip2",
     .magic = "BZh",
     .magic_bytes = 3,
     .add_filter = archive_read_support_filter_bzip2,
     .filter_code = ARCHIVE_FILTER_BZIP2,
     .open = raw_open,
     .next = raw_next},
    {.name = "xz",
     .magic = {0xfd, '7', 'z', 'X', 'Z', 0},
     .magic_bytes = 6,
     .add_filter = archive_read_support_filter_xz,
     .filter_code = ARCHIVE_FILTER_XZ,
     .open = raw_open,
     .next = raw_next},
    {.name = "zstd",
     .magic = {0x28, 0xb5, 0x2f, 0xfd},
     .magic_bytes = 4,
     .add_filter = archive_read_support_filter_zstd,
     .filter_code = ARCHIVE_FILTER_ZSTD,
     .open = raw_open,
     .next = raw_next},
    {.name = "zstd", /* a skippable frame first */
     .magic = {0x50, 0x2a, 0x4d, 0x18},
     .magic_bytes = 4,
     .ignored_bits = 0x0f,
     .add_filter = archive_read_support_filter_zstd,
     .filter_code = ARCHIVE_FILTER_ZSTD,
     .open = raw_open,
     .next = raw_next},
    {.name = "plain", .open = plain_open, .next = plain_next},
};

static const struct kind *find_kind(const unsigned char *first, size_t bytes)
{
    const struct kind *kind = kinds;
    for (; kind->magic_bytes; kind++)
        if (bytes >= kind->magic_bytes &&
            (first[0] & ~kind->ignored_bits) == (kind->magic[0] & ~kind->ignored_bits) &&
            memcmp(first + 1, kind->magic + 1, kind->magic_bytes - 1) == 0)
            break;
    return kind;
}

int tar_stream_open(int fd, struct tar_stream **ret_stream, struct fail *why)
{
    struct tar_stream *stream cleanup_tar_stream = calloc(1, sizeof(*stream));
    if (!stream)
        return -ENOMEM;
    stream->fd = fd;
    ssize_t n = read_piece(stream, why);
    if (n == 0)
        return fail_set(why, EILSEQ, "the archive is empty");
    if (n < 0)
        return (int)n;
    stream->offset = 0;
    stream->kind = find_kind(stream->in, (size_t)n);
    int r = stream->kind->open(stream, why);
    if (r < 0)
        return r;
    *ret_stream = take(stream);
    return 0;
}

void tar_stream_close(struct tar_stream *stream)
{
    if (!stream)
        return;
    (void)inflateEnd(&stream->gzip); /* refuses one that was never begun */
    (void)archive_read_free(stream->raw);
    free(stream);
}

ssize_t tar_stream_next(struct tar_stream *stream, const void **ret_bytes, struct fail *why)
{
    return stream->at_end ? 0 : stream->kind->next(stream, ret_bytes, why);
}
