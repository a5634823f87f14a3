/* SPDX-License-Identifier: MIT */
/*
 * Reading goes by a VFS of our own (sqlite.org/vfs.html), which can do no more than
 * that.  It says that its files are immutable, so SQLite takes no locks and looks for
 * no journals.
 */
#include "store/pagefile.h"

#include "base/fd.h"

#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <xxhash.h>

#define VFS_NAME "dvolfs-pagefile"
#define MARK UINT64_C(0x667073666c6f7664) /* "dvolfspf" */
/* Of an index, read from the disk when it is opened. */
#define AHEAD_BYTES (16 << 20)
/* SQLite's own limit is 2^32; this is a database of 1 TiB. */
#define PAGES_MAX ((uint64_t)1 << 28)
#define PAGES_AT_ONCE 64

struct trailer {
    uint64_t mark;
    uint64_t pages;
    uint64_t hash;
};

struct pagefile {
    int fd;
    int error;
    uint64_t pages;
    uint64_t *hashes; /* as they are in the file */
};

static struct trailer make_trailer(const uint64_t *hashes, uint64_t pages)
{
    return (struct trailer){
        .mark = htole64(MARK),
        .pages = htole64(pages),
        .hash = htole64(XXH3_64bits_withSeed(hashes, pages * sizeof(*hashes), pages)),
    };
}

/* ---- writing ------------------------------------------------------------------ */

static int hash_pages(int fd, uint64_t *hashes, uint64_t pages, struct fail *why)
{
    cleanup_free char *data = malloc((size_t)PAGES_AT_ONCE * PAGEFILE_PAGE_BYTES);
    if (!data)
        return -ENOMEM;
    for (uint64_t done = 0; done < pages;) {
        uint64_t left = pages - done;
        size_t count = left < PAGES_AT_ONCE ? (size_t)left : PAGES_AT_ONCE;
        ssize_t n =
            fd_pread_full(fd, data, count * PAGEFILE_PAGE_BYTES, done * PAGEFILE_PAGE_BYTES);
        if (n < 0 || (size_t)n < count * PAGEFILE_PAGE_BYTES)
            return fail_errno(why, n < 0 ? (int)-n : EIO, "cannot read the index back");
        for (size_t i = 0; i < count; i++)
            hashes[done + i] =
                htole64(XXH3_64bits(data + i * PAGEFILE_PAGE_BYTES, PAGEFILE_PAGE_BYTES));
        done += count;
    }
    return 0;
}

static int write_hashes(int fd, uint64_t pages, struct fail *why)
{
    cleanup_free uint64_t *hashes = calloc(pages, sizeof(*hashes));
    if (!hashes)
        return -ENOMEM;
    int r = hash_pages(fd, hashes, pages, why);
    if (r < 0)
        return r;
    struct trailer trailer = make_trailer(hashes, pages);
    uint64_t end = pages * PAGEFILE_PAGE_BYTES;
    size_t bytes = pages * sizeof(*hashes);
    r = fd_pwrite_all(fd, hashes, bytes, end);
    if (r == 0)
        r = fd_pwrite_all(fd, &trailer, sizeof(trailer), end + bytes);
    return r < 0 ? fail_errno(why, -r, "cannot write the index") : 0;
}

int pagefile_finish(const char *path, struct fail *why)
{
    int fd cleanup_close = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return fail_errno(why, errno, "cannot open the index");
    uint64_t pages = (uint64_t)st.st_size / PAGEFILE_PAGE_BYTES;
    if (pages == 0 || pages > PAGES_MAX || st.st_size % PAGEFILE_PAGE_BYTES)
        return fail_set(why, EINVAL, "an index of %lld bytes", (long long)st.st_size);
    return write_hashes(fd, pages, why);
}

/* ---- opening ------------------------------------------------------------------- */

static int unfinished(struct fail *why)
{
    return fail_set(why, ENODATA, "the index is not whole");
}

static int read_exactly(int fd, void *data, size_t bytes, uint64_t offset, struct fail *why)
{
    ssize_t n = fd_pread_full(fd, data, bytes, offset);
    if (n < 0)
        return fail_errno(why, (int)-n, "cannot read the index");
    return (size_t)n == bytes ? 0 : unfinished(why);
}

static int read_hashes(struct pagefile *file, uint64_t file_bytes, struct fail *why)
{
    struct trailer trailer;
    if (file_bytes < sizeof(trailer))
        return unfinished(why);
    int r = read_exactly(file->fd, &trailer, sizeof(trailer), file_bytes - sizeof(trailer), why);
    if (r < 0)
        return r;
    uint64_t pages = le64toh(trailer.pages);
    if (le64toh(trailer.mark) != MARK || pages == 0 || pages > PAGES_MAX ||
        file_bytes != pages * (PAGEFILE_PAGE_BYTES + sizeof(uint64_t)) + sizeof(trailer))
        return unfinished(why);
    file->pages = pages;
    file->hashes = calloc(pages, sizeof(*file->hashes));
    if (!file->hashes)
        return -ENOMEM;
    r = read_exactly(file->fd, file->hashes, pages * sizeof(*file->hashes),
                     pages * PAGEFILE_PAGE_BYTES, why);
    if (r < 0)
        return r;
    return make_trailer(file->hashes, pages).hash == trailer.hash ? 0 : unfinished(why);
}

static int read_file(struct pagefile *file, const char *path, struct fail *why)
{
    struct stat st;
    /* Not to wait where somebody has put a fifo. */
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
    if (file->fd < 0 && (errno == ENOENT || errno == ELOOP))
        return fail_set(why, ENODATA, "there is no index");
    if (file->fd < 0 || fstat(file->fd, &st) < 0)
        return fail_errno(why, errno, "cannot open the index");
    if (!S_ISREG(st.st_mode))
        return fail_set(why, ENODATA, "there is no index");
    /* Pages are asked for one by one, all over it; a hint. */
    (void)posix_fadvise(file->fd, 0, AHEAD_BYTES, POSIX_FADV_WILLNEED);
    return read_hashes(file, (uint64_t)st.st_size, why);
}

int pagefile_open(const char *path, struct pagefile **ret_file, struct fail *why)
{
    struct pagefile *file cleanup_pagefile = calloc(1, sizeof(*file));
    if (!file)
        return -ENOMEM;
    int r = read_file(file, path, why);
    if (r < 0)
        return r;
    *ret_file = take(file);
    return 0;
}

void pagefile_close(struct pagefile *file)
{
    if (!file)
        return;
    if (file->fd >= 0)
        (void)close(file->fd);
    free(file->hashes);
    free(file);
}

int pagefile_errno(const struct pagefile *file)
{
    return file->error ? file->error : EIO;
}

/* ---- the files of the VFS --------------------------------------------------------- */

struct vfs_file {
    sqlite3_file base;
    struct pagefile *file;
};

static int read_page(struct pagefile *file, uint64_t number, void *page)
{
    ssize_t n = fd_pread_full(file->fd, page, PAGEFILE_PAGE_BYTES, number * PAGEFILE_PAGE_BYTES);
    if (n < 0) {
        file->error = (int)-n;
        return SQLITE_IOERR_READ;
    }
    if (n < PAGEFILE_PAGE_BYTES ||
        htole64(XXH3_64bits(page, PAGEFILE_PAGE_BYTES)) != file->hashes[number])
        return SQLITE_IOERR_CORRUPTFS;
    return SQLITE_OK;
}

/* SQLite reads whole pages, but for the header of the first. */
static int vfs_read(sqlite3_file *base, void *data, int len, sqlite3_int64 offset)
{
    struct pagefile *file = ((struct vfs_file *)base)->file;
    unsigned char page[PAGEFILE_PAGE_BYTES];
    uint64_t at = (uint64_t)offset;
    size_t left = (size_t)len;
    while (left) {
        uint64_t number = at / PAGEFILE_PAGE_BYTES;
        size_t from = (size_t)(at % PAGEFILE_PAGE_BYTES);
        size_t count = sizeof(page) - from < left ? sizeof(page) - from : left;
        if (number >= file->pages) {
            memset(data, 0, left); /* wanted so, see sqlite3_io_methods */
            return SQLITE_IOERR_SHORT_READ;
        }
        int r = read_page(file, number, page);
        if (r != SQLITE_OK)
            return r;
        memcpy(data, page + from, count);
        data = (char *)data + count;
        at += count;
        left -= count;
    }
    return SQLITE_OK;
}

static int vfs_file_size(sqlite3_file *base, sqlite3_int64 *ret_bytes)
{
    const struct pagefile *file = ((struct vfs_file *)base)->file;
    *ret_bytes = (sqlite3_int64)file->pages * PAGEFILE_PAGE_BYTES;
    return SQLITE_OK;
}

static int vfs_close(unused_arg sqlite3_file *base)
{
    return SQLITE_OK; /* the pagefile is its opener's */
}

static int vfs_write(unused_arg sqlite3_file *base, unused_arg const void *data, unused_arg int len,
                     unused_arg sqlite3_int64 offset)
{
    return SQLITE_READONLY;
}

static int vfs_truncate(unused_arg sqlite3_file *base, unused_arg sqlite3_int64 bytes)
{
    return SQLITE_READONLY;
}

static int vfs_sync(unused_arg sqlite3_file *base, unused_arg int flags)
{
    return SQLITE_OK;
}

static int vfs_lock(unused_arg sqlite3_file *base, unused_arg int level)
{
    return SQLITE_OK;
}

static int vfs_check_reserved(unused_arg sqlite3_file *base, int *ret_reserved)
{
    *ret_reserved = 0;
    return SQLITE_OK;
}

static int vfs_control(unused_arg sqlite3_file *base, unused_arg int op, unused_arg void *arg)
{
    return SQLITE_NOTFOUND;
}

static int vfs_sector_bytes(unused_arg sqlite3_file *base)
{
    return PAGEFILE_PAGE_BYTES;
}

static int vfs_characteristics(unused_arg sqlite3_file *base)
{
    return SQLITE_IOCAP_IMMUTABLE;
}

static const sqlite3_io_methods vfs_methods = {
    .iVersion = 1,
    .xClose = vfs_close,
    .xRead = vfs_read,
    .xWrite = vfs_write,
    .xTruncate = vfs_truncate,
    .xSync = vfs_sync,
    .xFileSize = vfs_file_size,
    .xLock = vfs_lock,
    .xUnlock = vfs_lock,
    .xCheckReservedLock = vfs_check_reserved,
    .xFileControl = vfs_control,
    .xSectorSize = vfs_sector_bytes,
    .xDeviceCharacteristics = vfs_characteristics,
};

/* ---- the VFS ------------------------------------------------------------------- */

/* A file's name is the address of its pagefile: there is no other way to hand it over. */
static int vfs_open(unused_arg sqlite3_vfs *vfs, const char *name, sqlite3_file *base, int flags,
                    int *ret_flags)
{
    struct vfs_file *vfs_file = (struct vfs_file *)base;
    void *file;
    base->pMethods = NULL;
    if (!name || !(flags & SQLITE_OPEN_MAIN_DB) || sscanf(name, "%p", &file) != 1)
        return SQLITE_CANTOPEN;
    vfs_file->file = file;
    base->pMethods = &vfs_methods;
    if (ret_flags)
        *ret_flags = SQLITE_OPEN_READONLY;
    return SQLITE_OK;
}

static int vfs_delete(unused_arg sqlite3_vfs *vfs, unused_arg const char *name, unused_arg int sync)
{
    return SQLITE_READONLY;
}

static int vfs_access(unused_arg sqlite3_vfs *vfs, unused_arg const char *name,
                      unused_arg int flags, int *ret_is)
{
    *ret_is = 0;
    return SQLITE_OK;
}

static int vfs_full_path(unused_arg sqlite3_vfs *vfs, const char *name, int room, char *ret_path)
{
    int n = snprintf(ret_path, (size_t)room, "%s", name);
    return n < room ? SQLITE_OK : SQLITE_CANTOPEN;
}

static int vfs_random(unused_arg sqlite3_vfs *vfs, int len, char *ret_bytes)
{
    memset(ret_bytes, 0, (size_t)len); /* nothing is written, so nothing needs it */
    return len;
}

static int vfs_sleep(unused_arg sqlite3_vfs *vfs, unused_arg int us)
{
    return 0;
}

static int vfs_time(unused_arg sqlite3_vfs *vfs, double *ret_julian_day)
{
    *ret_julian_day = 2440587.5 + (double)time(NULL) / 86400.0;
    return SQLITE_OK;
}

static int vfs_error(unused_arg sqlite3_vfs *vfs, unused_arg int room, unused_arg char *ret_text)
{
    return 0;
}

static sqlite3_vfs vfs = {
    .iVersion = 1,
    .szOsFile = sizeof(struct vfs_file),
    .mxPathname = 64,
    .zName = VFS_NAME,
    .xOpen = vfs_open,
    .xDelete = vfs_delete,
    .xAccess = vfs_access,
    .xFullPathname = vfs_full_path,
    .xRandomness = vfs_random,
    .xSleep = vfs_sleep,
    .xCurrentTime = vfs_time,
    .xGetLastError = vfs_error,
};

static int vfs_registered;

static void register_vfs(void)
{
    vfs_registered = sqlite3_vfs_register(&vfs, 0);
}

int pagefile_database(struct pagefile *file, sqlite3 **ret_db)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    char name[32];
    (void)pthread_once(&once, register_vfs);
    *ret_db = NULL;
    if (vfs_registered != SQLITE_OK)
        return vfs_registered;
    (void)snprintf(name, sizeof(name), "%p", (void *)file);
    return sqlite3_open_v2(name, ret_db, SQLITE_OPEN_READONLY | SQLITE_OPEN_NOMUTEX, VFS_NAME);
}
