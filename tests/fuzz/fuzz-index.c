/* SPDX-License-Identifier: MIT */
/*
 * store/index.h: the input is changes to a good index, four bytes each (three where,
 * one what), whose pages then get the right hashes.  Whatever it is, what comes out
 * makes sense or is a clean error, and it comes to an end.
 */
#include "store/index.h"
#include "store/pagefile.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define ENTRIES 60
#define DB_MAX_BYTES ((size_t)1 << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool what)
{
    if (!what)
        abort();
}

static char path[] = "/tmp/fuzz-index-XXXXXX";
static uint8_t good[DB_MAX_BYTES];
static size_t good_bytes;

static void add_entry(struct index_writer *writer, uint64_t id, const struct buf *xattrs)
{
    static const uint32_t types[] = {S_IFREG, S_IFREG, S_IFLNK, S_IFREG, S_IFDIR, S_IFCHR};
    static const struct file_extent extents[] = {{512, 512}, {4096, 1024}};
    char name[16] = "";
    uint32_t type = id ? types[id % 6] : S_IFDIR;
    if (id)
        (void)snprintf(name, sizeof(name), "n%02u", (unsigned)id);
    struct index_entry entry = {.id = id, .target = id, .offset = id * 1024};
    entry.parent = id > 6 ? id / 6 * 6 - 2 : 0; /* 4, 10, ... are directories */
    entry.file = (struct file){.name = name,
                               .link_target = type == S_IFLNK ? "to" : "",
                               .xattrs = id % 5 ? "" : xattrs->data,
                               .xattr_bytes = id % 5 ? 0 : xattrs->len,
                               .extents = "",
                               .is_sparse = id % 6 == 1,
                               .extent_count = id % 6 == 1 ? 2 : 0};
    entry.file.stat = (struct file_stat){.mode = type | 0644, .size_bytes = id * 1000 + 5000};
    if (id % 6 == 3)
        entry.target = id - 2;
    require(index_add(writer, &entry, extents, NULL) == 0);
}

static void remove_file(void)
{
    (void)unlink(path);
}

static void make_good(void)
{
    struct index_writer *writer cleanup_index_writer = NULL;
    struct index_about about = {.consistency = "live"};
    struct buf xattrs cleanup_buf;
    uint8_t key[INDEX_KEY_BYTES] = {1};
    struct stat st;
    buf_init(&xattrs, 4096);
    int fd cleanup_close = mkostemp(path, O_CLOEXEC);
    require(fd >= 0 && file_xattr_add(&xattrs, "user.a", "value", 5) == 0);
    require(atexit(remove_file) == 0);
    require(index_writer_new(path, &writer, NULL) == 0);
    for (uint64_t id = 0; id < ENTRIES; id++)
        add_entry(writer, id, &xattrs);
    for (uint64_t number = 0; number < 9; number++)
        require(index_add_frame(writer, number, key, NULL) == 0);
    require(index_finish(writer, &about, NULL) == 0 && fstat(fd, &st) == 0);
    good_bytes = (size_t)st.st_size / PAGEFILE_PAGE_BYTES * PAGEFILE_PAGE_BYTES;
    require(good_bytes <= sizeof(good) && pread(fd, good, good_bytes, 0) == (ssize_t)good_bytes);
}

static void write_changed(const uint8_t *data, size_t size)
{
    static uint8_t changed[DB_MAX_BYTES];
    memcpy(changed, good, good_bytes);
    for (size_t i = 0; i + 4 <= size; i += 4) {
        size_t at = (size_t)data[i] << 16 | (size_t)data[i + 1] << 8 | data[i + 2];
        changed[at % good_bytes] = data[i + 3];
    }
    int fd cleanup_close = open(path, O_RDWR | O_TRUNC | O_CLOEXEC);
    require(fd >= 0 && pwrite(fd, changed, good_bytes, 0) == (ssize_t)good_bytes);
    require(pagefile_finish(path, NULL) == 0);
}

static int take_entry(void *data, const struct index_entry *entry)
{
    size_t *sum = data;
    size_t position = 0;
    const char *name;
    const void *value;
    size_t bytes;
    require(entry->id == 0 || entry->parent < entry->id);
    require(entry->target <= entry->id && entry->file.stat.ino == entry->target);
    require(!strchr(entry->file.name, '/') && (entry->id == 0) == (entry->file.name[0] == '\0'));
    require(!S_ISLNK(entry->file.stat.mode) == !entry->file.link_target[0]);
    for (size_t i = 0; i < entry->file.extent_count; i++)
        *sum += file_extent_at(&entry->file, i).bytes;
    while (file_xattr_next(&entry->file, &position, &name, &value, &bytes) > 0)
        *sum += strlen(name) + bytes + (bytes ? *(const char *)value != 0 : 0);
    return 0;
}

static int take_key(void *data, uint64_t number, const uint8_t key[INDEX_KEY_BYTES])
{
    *(size_t *)data += number + key[0] + key[INDEX_KEY_BYTES - 1];
    return 0;
}

static void require_clean(int r)
{
    require(r >= 0 || r == -EBADMSG || r == -ENOENT || r == -ENOMEM);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t sum = 0;
    if (!good_bytes)
        make_good();
    write_changed(data, size);
    struct index *index cleanup_index = NULL;
    int r = index_open(path, &index, NULL);
    require(r == 0 || r == -ENODATA || r == -ENOMEM);
    for (uint64_t id = 0; r == 0 && id <= ENTRIES; id++) {
        require_clean(index_get(index, id, take_entry, &sum, NULL));
        require_clean(index_list(index, id, NULL, 100, take_entry, &sum, NULL));
        require_clean(index_find(index, id, "n05", take_entry, &sum, NULL));
    }
    if (r == 0)
        require_clean(index_frames(index, take_key, &sum, NULL));
    return 0;
}
