/* SPDX-License-Identifier: MIT */
/* tar/scan.h: some byte says in what pieces they come. However it is cut, the same
 * members are told, and the same is said of the whole. */
#include "fuzz-tar.h"
#include "fuzz.h"

#include "base/buf.h"
#include "tar/scan.h"

#include <inttypes.h>

static int note(void *data, const struct tar_entry *entry, unused_arg struct fail *why)
{
    require(entry->name != NULL);
    require(entry->link_target != NULL || !entry->is_hard_link);
    require(entry->mtime_ns < 1000000000);
    return buf_printf(data,
                      "%s|%s|%o|%d|%" PRIu64 "|%" PRIu64 "|%" PRId64 ".%u|%" PRIu64 "|%u,%u\n",
                      entry->name, entry->link_target ? entry->link_target : "", entry->mode,
                      entry->is_hard_link, entry->uid, entry->gid, entry->mtime_s, entry->mtime_ns,
                      entry->size_bytes, entry->dev_major, entry->dev_minor);
}

static int scan_all(const uint8_t *data, size_t size, size_t piece, struct buf *listing)
{
    struct fail why = FAIL_INIT;
    struct tar_scan *scan cleanup_tar_scan = tar_scan_new(note, listing);
    require(scan != NULL);
    buf_init(listing, (size_t)64 << 20);
    int r = 0;
    for (size_t at = 0; at < size && r == 0; at += piece)
        r = tar_scan_push(scan, data + at, size - at < piece ? size - at : piece, &why);
    if (r == 0)
        r = tar_scan_finish(scan, &why);
    require(r == 0 || (r == -EILSEQ && why.text[0]));
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    struct buf whole cleanup_buf, cut cleanup_buf;
    int r = scan_all(data, size, size, &whole);
    require(scan_all(data, size, (size_t)data[size / 2] * 7 + 1, &cut) == r);
    require(strcmp(buf_string(&whole), buf_string(&cut)) == 0);
    return 0;
}
