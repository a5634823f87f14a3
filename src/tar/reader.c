/* SPDX-License-Identifier: MIT */
/*
 * libarchive parses the tar; what it is too lax about is done around it:
 *
 * The bytes come from tar/stream.c, which vouches for the compression, and are
 * watched on the way: where the last byte that is not zero was.  libarchive says
 * where the end marker begins; from there on there must be two blocks, all
 * zeros, to the end of the file.
 *
 * Names in pax records are UTF-8 to libarchive: in a UTF-8 locale it composes
 * them (NFC) and so silently renames files, in others it fails to convert, warns,
 * and keeps the bytes.  So it is only called in the C locale, where nothing but
 * ASCII converts, and this one warning is no error.  All others are.
 */
#include "tar/reader.h"

#include "tar/acl.h"
#include "tar/header.h"
#include "tar/stream.h"

#include <archive.h>
#include <archive_entry.h>
#include <locale.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>

/* Of one member; bounds what libarchive keeps of it, sparse maps above all. */
#define HEADER_MAX_BYTES (16 * 1024 * 1024)
/* More do not fit the 64 KiB in which the kernel lists their names. */
#define XATTRS_MAX 8192

struct tar_reader {
    struct tar_stream *stream;
    struct archive *tar;
    struct archive_entry *current;
    locale_t c_locale;
    bool is_ahead;        /* current is a member not yet handed out */
    bool at_end;          /* nothing follows */
    int error;            /* stays: libarchive would look for the next header */
    bool in_header;       /* header_left counts */
    size_t header_left;   /* bytes this member's header may still take */
    uint64_t pulled;      /* bytes libarchive was given */
    uint64_t nonzero_end; /* where the last byte that is not zero ends */
    int stream_error;     /* libarchive does not pass it on */
    struct fail stream_why;
    uint64_t headers_at; /* of the current member */
    uint64_t data_at;
    uint64_t data_end; /* of the runs so far */
    uint64_t data_max; /* where they must end */
};

static void leave_locale(const locale_t *outer)
{
    (void)uselocale(*outer);
}

/* The C locale from here to the end of the scope. */
#define scoped_c_locale(reader)                                                                    \
    locale_t outer_locale cleanup(leave_locale) unused_arg = uselocale((reader)->c_locale)

/* Notes where the bytes that are not zero end. */
static void watch(struct tar_reader *reader, const unsigned char *bytes, size_t len)
{
    size_t end = len;
    while (end > 0 && bytes[end - 1] == 0)
        end--;
    if (end > 0)
        reader->nonzero_end = reader->pulled + end;
    reader->pulled += len;
}

static ssize_t pull(struct tar_reader *reader, const void **ret_bytes, struct fail *why)
{
    ssize_t n = tar_stream_next(reader->stream, ret_bytes, why);
    if (n > 0)
        watch(reader, *ret_bytes, (size_t)n);
    if (n <= 0 || !reader->in_header)
        return n;
    if ((size_t)n > reader->header_left)
        return fail_set(why, EILSEQ, "a member's header is over %d bytes", HEADER_MAX_BYTES);
    reader->header_left -= (size_t)n;
    return n;
}

static la_ssize_t on_read(unused_arg struct archive *tar, void *data, const void **ret_bytes)
{
    struct tar_reader *reader = data;
    ssize_t n = pull(reader, ret_bytes, &reader->stream_why);
    if (n >= 0)
        return n;
    reader->stream_error = (int)n;
    return ARCHIVE_FATAL;
}

/* Why libarchive gave up. */
static int tar_fail(const struct tar_reader *reader, struct fail *why)
{
    if (reader->stream_error)
        return fail_set(why, -reader->stream_error, "%s",
                        fail_text(&reader->stream_why, reader->stream_error));
    if (archive_errno(reader->tar) == ENOMEM)
        return fail_set(why, ENOMEM, "not enough memory to read the archive");
    const char *text = archive_error_string(reader->tar);
    return fail_set(why, EILSEQ, "the tar is damaged or cut short: %s",
                    text ? text : "it ends too early");
}

/*
 * Whether a header was understood whole.  libarchive swallows the warning about
 * a malformed ACL, but leaves its text.
 */
static bool is_sound(int r, struct archive *tar)
{
    const char *text = archive_error_string(tar);
    if (!text)
        return r == ARCHIVE_OK;
    return r >= ARCHIVE_WARN && strstr(text, "can't be converted from");
}

/* The end marker begins at `end`; reads on to the end of the file. */
static int check_end(struct tar_reader *reader, uint64_t end, struct fail *why)
{
    const void *unused;
    ssize_t n;
    reader->in_header = false;
    do
        n = pull(reader, &unused, why);
    while (n > 0);
    if (n < 0)
        return (int)n;
    if (reader->nonzero_end > end)
        return fail_set(why, EILSEQ, "something follows the tar's end");
    if (reader->pulled - end < TAR_END_BYTES)
        return fail_set(why, EILSEQ, "the tar is cut short: its closing blocks are missing");
    return 0;
}

/* Moves to the next member: 1, or 0 at the sound end. */
static int advance(struct tar_reader *reader, struct fail *why)
{
    reader->in_header = false;
    int r = reader->current ? archive_read_data_skip(reader->tar) : ARCHIVE_OK;
    reader->current = NULL;
    if (r != ARCHIVE_OK && r != ARCHIVE_EOF)
        return tar_fail(reader, why);
    reader->in_header = true;
    reader->header_left = HEADER_MAX_BYTES;
    r = archive_read_next_header(reader->tar, &reader->current);
    reader->in_header = false;
    reader->headers_at = reader->data_at = (uint64_t)archive_read_header_position(reader->tar);
    if (r != ARCHIVE_EOF && is_sound(r, reader->tar)) {
        reader->data_at = (uint64_t)archive_filter_bytes(reader->tar, 0);
        return 1;
    }
    reader->current = NULL;
    if (r != ARCHIVE_EOF || reader->stream_error)
        return tar_fail(reader, why);
    r = check_end(reader, (uint64_t)archive_read_header_position(reader->tar), why);
    reader->at_end = r == 0;
    return r;
}

static int open_tar(struct tar_reader *reader, struct fail *why)
{
    reader->c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    reader->tar = archive_read_new();
    if (!reader->tar || !reader->c_locale)
        return -ENOMEM;
    if (archive_read_support_format_tar(reader->tar) != ARCHIVE_OK ||
        archive_read_open(reader->tar, reader, NULL, on_read, NULL) != ARCHIVE_OK)
        return tar_fail(reader, why);
    scoped_c_locale(reader);
    int r = advance(reader, why);
    reader->is_ahead = r > 0;
    return r < 0 ? r : 0;
}

int tar_reader_open(int fd, struct tar_reader **ret_reader, struct fail *why)
{
    struct tar_reader *reader cleanup_tar_reader = calloc(1, sizeof(*reader));
    if (!reader)
        return -ENOMEM;
    int r = tar_stream_open(fd, &reader->stream, why);
    if (r == 0)
        r = open_tar(reader, why);
    if (r < 0)
        return r;
    *ret_reader = take(reader);
    return 0;
}

void tar_reader_close(struct tar_reader *reader)
{
    if (!reader)
        return;
    (void)archive_read_free(reader->tar);
    tar_stream_close(reader->stream);
    if (reader->c_locale)
        freelocale(reader->c_locale);
    free(reader);
}

static int convert_names(struct archive_entry *from, struct tar_entry *entry, struct fail *why)
{
    const char *name = archive_entry_pathname(from);
    const char *hard_link = archive_entry_hardlink(from);
    const char *target = hard_link ? hard_link : archive_entry_symlink(from);
    if (!name || !name[0])
        return fail_set(why, EILSEQ, "the tar has a member without a name");
    if (archive_entry_filetype(from) == AE_IFLNK && (!target || !target[0]))
        return fail_set(why, EILSEQ, "%s: a symlink to nothing", name);
    entry->name = strdup(name);
    entry->link_target = target ? strdup(target) : NULL;
    if (!entry->name || (target && !entry->link_target))
        return -ENOMEM;
    tar_entry_clean_name(entry->name);
    if (hard_link)
        tar_entry_clean_name(entry->link_target);
    entry->is_hard_link = hard_link != NULL;
    return 0;
}

static mode_t mode_of(struct archive_entry *from)
{
    mode_t type = archive_entry_filetype(from);
    if (archive_entry_hardlink(from))
        type = S_IFREG;
    const char *name = archive_entry_pathname(from);
    if (type == S_IFREG && name[strlen(name) - 1] == '/') /* as old tars wrote directories */
        type = S_IFDIR;
    return type | (archive_entry_perm(from) & 07777);
}

static int convert_numbers(struct archive_entry *from, struct tar_entry *entry)
{
    int64_t uid = archive_entry_uid(from);
    int64_t gid = archive_entry_gid(from);
    int64_t size = archive_entry_size(from);
    dev_t dev_major = archive_entry_rdevmajor(from);
    dev_t dev_minor = archive_entry_rdevminor(from);
    if (uid < 0 || gid < 0 || size < 0 || dev_major > UINT32_MAX || dev_minor > UINT32_MAX)
        return -EILSEQ;
    entry->mode = mode_of(from);
    entry->uid = (uint64_t)uid;
    entry->gid = (uint64_t)gid;
    entry->size_bytes = S_ISREG(entry->mode) && !entry->is_hard_link ? (uint64_t)size : 0;
    if (S_ISCHR(entry->mode) || S_ISBLK(entry->mode)) {
        entry->dev_major = (uint32_t)dev_major;
        entry->dev_minor = (uint32_t)dev_minor;
    }
    return 0;
}

/* libarchive takes the fraction of "-1.25" for positive. */
static void convert_time(struct archive_entry *from, struct tar_entry *entry)
{
    int64_t s = archive_entry_mtime(from);
    uint32_t ns = (uint32_t)archive_entry_mtime_nsec(from);
    bool is_mirrored = s < 0 && s > INT64_MIN && ns > 0;
    entry->mtime_s = is_mirrored ? s - 1 : s;
    entry->mtime_ns = is_mirrored ? 1000000000 - ns : ns;
}

/* Runs of no length mark the end of a file that ends with a hole; they are dropped. */
static int convert_extents(struct archive_entry *from, struct tar_entry *entry)
{
    int count = archive_entry_sparse_reset(from);
    if (count <= 0 || !S_ISREG(entry->mode) || entry->is_hard_link)
        return 0;
    entry->extents = calloc((size_t)count, sizeof(*entry->extents));
    if (!entry->extents)
        return -ENOMEM;
    uint64_t end = 0;
    la_int64_t offset, bytes;
    while (archive_entry_sparse_next(from, &offset, &bytes) == ARCHIVE_OK && count-- > 0) {
        if (offset < 0 || bytes < 0 || (uint64_t)offset < end ||
            (uint64_t)offset > entry->size_bytes ||
            (uint64_t)bytes > entry->size_bytes - (uint64_t)offset)
            return -EILSEQ;
        end = (uint64_t)offset + (uint64_t)bytes;
        if (bytes > 0)
            entry->extents[entry->extent_count++] =
                (struct tar_extent){(uint64_t)offset, (uint64_t)bytes};
    }
    return 0;
}

/* Undoes GNU tar's escapes, see tar/header.c. */
static void unescape(char *name)
{
    char *out = name;
    for (const char *in = name; *in; out++) {
        bool is_equals = strncmp(in, "%3D", 3) == 0;
        bool is_percent = strncmp(in, "%25", 3) == 0;
        *out = *in;
        if (is_equals)
            *out = '=';
        in += is_equals || is_percent ? 3 : 1;
    }
    *out = '\0';
}

static int convert_xattrs(struct archive_entry *from, struct tar_entry *entry)
{
    const char *name;
    const void *value;
    size_t bytes;
    if (archive_entry_xattr_reset(from) > XATTRS_MAX)
        return -EILSEQ;
    while (archive_entry_xattr_next(from, &name, &value, &bytes) == ARCHIVE_OK) {
        cleanup_free char *own = strdup(name);
        if (!own)
            return -ENOMEM;
        unescape(own);
        int r = tar_entry_add_xattr(entry, own, value, bytes);
        if (r < 0)
            return r;
    }
    return 0;
}

static int convert(struct archive_entry *from, struct tar_entry *entry, struct fail *why)
{
    int r = convert_names(from, entry, why);
    if (r < 0)
        return r;
    convert_time(from, entry);
    r = convert_numbers(from, entry);
    if (r == 0)
        r = convert_extents(from, entry);
    if (r == 0)
        r = convert_xattrs(from, entry);
    if (r == -EILSEQ)
        return fail_set(why, EILSEQ, "%s: its header makes no sense", entry->name);
    if (r == 0) {
        r = tar_acl_convert(from, entry, why);
        if (r == -EILSEQ)
            (void)fail_prefix(why, r, "%s", entry->name);
    }
    return r;
}

static int next(struct tar_reader *reader, struct tar_entry *entry, struct fail *why)
{
    int r = reader->at_end ? 0 : reader->is_ahead ? 1 : advance(reader, why);
    reader->is_ahead = false;
    if (r <= 0)
        return r;
    r = convert(reader->current, entry, why);
    return r < 0 ? r : 1;
}

int tar_reader_next(struct tar_reader *reader, struct tar_entry *ret_entry, struct fail *why)
{
    if (reader->error)
        return reader->error;
    struct tar_entry entry cleanup_tar_entry = {0};
    scoped_c_locale(reader);
    int r = next(reader, &entry, why);
    if (r < 0)
        reader->error = r;
    if (r <= 0)
        return r;
    reader->data_end = 0;
    reader->data_max = entry.size_bytes;
    *ret_entry = entry;
    entry = (struct tar_entry){0};
    return 1;
}

void tar_reader_position(const struct tar_reader *reader, uint64_t *ret_headers, uint64_t *ret_data)
{
    *ret_headers = reader->headers_at;
    *ret_data = reader->data_at;
}

/* The next run that is not empty, still as libarchive has it: 1, or 0 at the end. */
static int next_run(struct tar_reader *reader, const void **ret_data, size_t *ret_bytes,
                    la_int64_t *ret_offset, struct fail *why)
{
    int r;
    scoped_c_locale(reader);
    do
        r = archive_read_data_block(reader->tar, ret_data, ret_bytes, ret_offset);
    while (r == ARCHIVE_OK && *ret_bytes == 0);
    if (r == ARCHIVE_OK || r == ARCHIVE_EOF)
        return r == ARCHIVE_OK;
    return tar_fail(reader, why);
}

int tar_reader_data(struct tar_reader *reader, const void **ret_data, size_t *ret_bytes,
                    uint64_t *ret_offset, struct fail *why)
{
    const void *data = NULL;
    size_t bytes = 0;
    la_int64_t offset = 0;
    if (reader->error || !reader->current || reader->data_max == 0)
        return reader->error;
    int r = next_run(reader, &data, &bytes, &offset, why);
    if (r > 0 &&
        (offset < 0 || (uint64_t)offset < reader->data_end || (uint64_t)offset > reader->data_max ||
         bytes > reader->data_max - (uint64_t)offset))
        r = fail_set(why, EILSEQ, "a sparse member's map does not fit its size");
    if (r < 0)
        reader->error = r;
    if (r <= 0)
        return r;
    reader->data_end = (uint64_t)offset + bytes;
    *ret_data = data;
    *ret_bytes = bytes;
    *ret_offset = (uint64_t)offset;
    return 1;
}
