/* SPDX-License-Identifier: MIT */
/*
 * What the tests of src/tar share: a temporary directory, archives made by
 * other programs or by hand, and a listing of an archive as text.
 */
#ifndef DVOLFS_TEST_TAR_H
#define DVOLFS_TEST_TAR_H

#include "scratch.h"

#include "base/buf.h"
#include "tar/header.h"
#include "tar/reader.h"

#include <fcntl.h>
#include <inttypes.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <zlib.h>

#include <cmocka.h>

#define BYTES_MAX ((size_t)1 << 30)
#define LISTING_MAX (64 * 1024 * 1024)

/* A string that may be given where the owner of a tar_entry would put his own. */
#define STR(text) ((char[]){text})

/* As enter_test_dir, where names are bytes and modes as they are given. */
static inline int enter_tar_test_dir(void **state)
{
    (void)setlocale(LC_CTYPE, "C.UTF-8");
    (void)setenv("LC_ALL", "C.UTF-8", 1);
    (void)umask(022);
    return enter_test_dir(state);
}

static inline void slurp(const char *path, struct buf *bytes)
{
    static char piece[65536];
    int fd cleanup_close = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    buf_init(bytes, BYTES_MAX);
    ssize_t n;
    while ((n = read(fd, piece, sizeof(piece))) > 0)
        assert_int_equal(buf_add(bytes, piece, (size_t)n), 0);
    assert_int_equal(n, 0);
}

static inline void spill(const char *path, const void *bytes, size_t len)
{
    int fd cleanup_close = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(len ? write(fd, bytes, len) : 0, len);
}

/* A file without a name that has these bytes. */
static inline int open_bytes(const void *bytes, size_t len)
{
    int fd = memfd_create("archive", MFD_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(len ? write(fd, bytes, len) : 0, len);
    return fd;
}

static inline void add_hex(struct buf *out, const void *bytes, size_t len)
{
    const unsigned char *byte = bytes;
    for (size_t i = 0; i < len; i++)
        assert_int_equal(buf_printf(out, "%02x", byte[i]), 0);
}

static inline uint64_t crc_zeros(uint64_t crc, uint64_t count)
{
    static const unsigned char zeros[65536];
    while (count > 0) {
        uint64_t n = count < sizeof(zeros) ? count : sizeof(zeros);
        crc = crc32(crc, zeros, (unsigned)n);
        count -= n;
    }
    return crc;
}

/* The checksum of the member's data, holes included. */
static inline int read_crc(struct tar_reader *reader, uint64_t size, uint64_t *ret_crc,
                           struct fail *why)
{
    uint64_t crc = 0;
    uint64_t end = 0;
    const void *data;
    size_t bytes;
    uint64_t offset;
    int r;
    while ((r = tar_reader_data(reader, &data, &bytes, &offset, why)) > 0) {
        assert_true(bytes > 0 && offset >= end && offset + bytes <= size);
        crc = crc_zeros(crc, offset - end);
        crc = crc32(crc, data, (unsigned)bytes);
        end = offset + bytes;
    }
    *ret_crc = crc_zeros(crc, size - end);
    return r;
}

/* One line: hex name, type and mode, owner, mtime, size, checksum, device, hex target, attributes.
 */
static inline void add_line(struct buf *out, const struct tar_entry *entry, uint64_t crc)
{
    add_hex(out, entry->name, strlen(entry->name));
    assert_int_equal(buf_printf(out,
                                " %o%s %" PRIu64 ":%" PRIu64 " %" PRId64 ".%09" PRIu32 " %" PRIu64
                                " %08" PRIx64 " %" PRIu32 ",%" PRIu32 " ",
                                entry->mode, entry->is_hard_link ? "H" : "", entry->uid, entry->gid,
                                entry->mtime_s, entry->mtime_ns, entry->size_bytes, crc,
                                entry->dev_major, entry->dev_minor),
                     0);
    if (entry->link_target)
        add_hex(out, entry->link_target, strlen(entry->link_target));
    for (size_t i = 0; i < entry->xattr_count; i++) {
        assert_int_equal(buf_printf(out, " %s=", entry->xattrs[i].name), 0);
        add_hex(out, entry->xattrs[i].value, entry->xattrs[i].value_bytes);
    }
    assert_int_equal(buf_add_string(out, "\n"), 0);
}

/* Reads the whole archive into a listing; the reader's result. */
static inline int list_fd(int fd, struct buf *out, struct fail *why)
{
    struct tar_reader *reader cleanup_tar_reader = NULL;
    int r = tar_reader_open(fd, &reader, why);
    while (r >= 0) {
        struct tar_entry entry cleanup_tar_entry = {0};
        r = tar_reader_next(reader, &entry, why);
        if (r <= 0)
            break;
        uint64_t crc = 0;
        r = read_crc(reader, entry.size_bytes, &crc, why);
        if (r == 0)
            add_line(out, &entry, crc);
    }
    if (r == 0) { /* the end stays the end */
        struct tar_entry entry = {0};
        assert_int_equal(tar_reader_next(reader, &entry, why), 0);
    }
    return r;
}

static inline int list_bytes(const void *bytes, size_t len, struct buf *out, struct fail *why)
{
    int fd cleanup_close = open_bytes(bytes, len);
    return list_fd(fd, out, why);
}

static inline int list_path(const char *path, struct buf *out, struct fail *why)
{
    int fd cleanup_close = open(path, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    return list_fd(fd, out, why);
}

static inline int compare_lines(const void *left, const void *right)
{
    return strcmp(*(char *const *)left, *(char *const *)right);
}

/* Sorts the lines of a listing: programs walk a tree in different orders. */
static inline void sort_lines(struct buf *text)
{
    static char *lines[100000];
    size_t count = 0;
    char *own = strdup(buf_string(text));
    char *rest = own;
    for (char *line = strsep(&rest, "\n"); line && *line; line = strsep(&rest, "\n"))
        lines[count++] = line;
    qsort(lines, count, sizeof(lines[0]), compare_lines);
    buf_clear(text);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(buf_printf(text, "%s\n", lines[i]), 0);
    free(own);
}

/* The texts must be the same; else the lines that differ are shown. */
static inline void assert_same_lines(struct buf *got, struct buf *wanted)
{
    if (strcmp(buf_string(got), buf_string(wanted)) == 0)
        return;
    spill("got.txt", got->data, got->len);
    spill("wanted.txt", wanted->data, wanted->len);
    shell("diff wanted.txt got.txt | cut -c 1-300");
    fail_msg("the listings differ");
}

/* Adds a member with its data, or `data` NULL and as many zeros. */
static inline void add_member(struct buf *archive, const struct tar_entry *entry, const char *data)
{
    assert_int_equal(tar_header_write(archive, "", entry), 0);
    if (data)
        assert_int_equal(buf_add(archive, data, entry->size_bytes), 0);
    else
        assert_int_equal(buf_add_zeros(archive, entry->size_bytes), 0);
    assert_int_equal(buf_add_zeros(archive, tar_padding_bytes(entry->size_bytes)), 0);
}

static inline void add_end(struct buf *archive)
{
    assert_int_equal(buf_add_zeros(archive, TAR_END_BYTES), 0);
}

/* A member of a name and mode, and a text as its data or target. */
static inline void add_simple(struct buf *archive, const char *name, mode_t mode, const char *text)
{
    struct tar_entry entry = {.name = (char *)(uintptr_t)name, .mode = mode, .mtime_s = 1000000000};
    if (S_ISLNK(mode))
        entry.link_target = (char *)(uintptr_t)text;
    if (S_ISREG(mode) && text)
        entry.size_bytes = strlen(text);
    add_member(archive, &entry, text);
}

static inline void add_hard_link(struct buf *archive, const char *name, const char *target)
{
    struct tar_entry entry = {.name = (char *)(uintptr_t)name,
                              .link_target = (char *)(uintptr_t)target,
                              .is_hard_link = 1,
                              .mode = S_IFREG | 0644};
    assert_int_equal(tar_header_write(archive, "", &entry), 0);
}

/* Makes the checksum of a header that was tampered with fit again. */
static inline void fix_checksum(char *block)
{
    unsigned sum = 0;
    memset(block + 148, ' ', 8);
    for (size_t i = 0; i < TAR_BLOCK_BYTES; i++)
        sum += (unsigned char)block[i];
    (void)snprintf(block + 148, 8, "%06o", sum);
}

#endif
