/* SPDX-License-Identifier: MIT */
/* tar/reader.h, over plain and compressed archives: what it promises of names, numbers
 * and runs of data, and that an archive which is taken is taken again. */
#include "fuzz-tar.h"
#include "fuzz.h"

#include "tar/reader.h"

#include <sys/stat.h>

static void check_name(const char *name)
{
    size_t len = strlen(name);
    require(len == 0 || len == 1 || name[len - 1] != '/');
    require(!strstr(name, "//") && !strstr(name, "/./") && strncmp(name, "./", 2) != 0);
}

static void check_entry(const struct tar_entry *entry)
{
    require(entry->name != NULL && (entry->link_target != NULL || !entry->is_hard_link));
    require(entry->link_target != NULL || !S_ISLNK(entry->mode));
    check_name(entry->name);
    if (entry->is_hard_link)
        check_name(entry->link_target);
    require(entry->size_bytes == 0 || (S_ISREG(entry->mode) && !entry->is_hard_link));
    require(entry->size_bytes <= INT64_MAX && entry->mtime_ns < 1000000000);
    require(entry->extent_count == 0 || entry->extents != NULL);
    uint64_t end = 0;
    for (size_t i = 0; i < entry->extent_count; i++) {
        require(entry->extents[i].offset >= end && entry->extents[i].bytes > 0);
        end = entry->extents[i].offset + entry->extents[i].bytes;
        require(end <= entry->size_bytes);
    }
    for (size_t i = 0; i < entry->xattr_count; i++)
        require(entry->xattrs[i].name != NULL);
}

/* Every other member's data is left unread: it is skipped. */
static int read_data(struct tar_reader *reader, uint64_t size_bytes, uint64_t *sum,
                     struct fail *why)
{
    const void *data;
    size_t bytes;
    uint64_t offset, end = 0;
    int r;
    while ((r = tar_reader_data(reader, &data, &bytes, &offset, why)) > 0) {
        require(bytes > 0 && offset >= end && bytes <= size_bytes - offset);
        end = offset + bytes;
        for (size_t i = 0; i < bytes; i++)
            *sum = *sum * 31 + ((const uint8_t *)data)[i];
    }
    return r;
}

static int read_all(int fd, uint64_t *sum)
{
    struct fail why = FAIL_INIT;
    struct tar_reader *reader cleanup_tar_reader = NULL;
    int r = tar_reader_open(fd, &reader, &why);
    if (r < 0)
        return r;
    for (unsigned i = 0;; i++) {
        struct tar_entry entry cleanup_tar_entry = {0};
        r = tar_reader_next(reader, &entry, &why);
        if (r <= 0)
            break;
        check_entry(&entry);
        *sum = *sum * 31 + strlen(entry.name);
        r = i % 2 ? 0 : read_data(reader, entry.size_bytes, sum, &why);
        if (r < 0)
            break;
    }
    require(r == 0 || why.text[0]);
    struct tar_entry entry = {0};
    require(tar_reader_next(reader, &entry, &why) == r); /* the end and errors stay */
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t first = 0, second = 0;
    cleanup_close int fd = file_of(data, size);
    int r = read_all(fd, &first);
    require(r == 0 || r == -EILSEQ || r == -ENOMEM);
    require(read_all(fd, &second) == r && first == second);
    return 0;
}
