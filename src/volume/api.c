/* SPDX-License-Identifier: MIT */
#include "volume/api.h"

#include "base/fd.h"
#include "engine/archive.h"
#include "tar/convert.h"

#include <string.h>
#include <sys/stat.h>

struct receiver {
    int fd; /* -1: the bytes are only looked at */
    uint64_t bytes;
    struct tar_scan *scan;
};

static int receive(void *data, const void *bytes, size_t len, struct fail *why)
{
    struct receiver *receiver = data;
    int r = tar_scan_push(receiver->scan, bytes, len, why);
    if (r < 0)
        return r;
    if (receiver->fd >= 0 && (r = fd_pwrite_all(receiver->fd, bytes, len, receiver->bytes)) < 0)
        return fail_errno(why, -r, "writing to the spool");
    receiver->bytes += len;
    return 0;
}

static int stream(struct helpers *helpers, const char *volume, struct receiver *receiver,
                  struct cancel *cancel, struct fail *why)
{
    struct helper *helper cleanup_helper = NULL;
    int r = helper_open(helpers, &(struct helper_conf){.volume = volume}, cancel, &helper, why);
    if (r < 0)
        return r;
    r = engine_archive_get(helper_engine(helper), helper_container(helper), HELPER_MOUNT "/.",
                           receive, receiver, cancel, why);
    if (r == 0)
        r = tar_scan_finish(receiver->scan, why);
    /* What the engine sent is no sound archive: for the reader that is an I/O error. */
    return r == -EILSEQ ? -EIO : r;
}

/* The engine puts the volume's own path, at most this long, before a name. */
#define VOLUME_PATH_BYTES 256
#define DEEPEST_BYTES (4095 - VOLUME_PATH_BYTES - 255)

static int note_depth(void *data, const struct tar_entry *entry, struct fail *why)
{
    (void)why;
    bool *may_be_cut = data;
    if (S_ISDIR(entry->mode) && strlen(entry->name) > DEEPEST_BYTES)
        *may_be_cut = true;
    return 0;
}

int api_read(struct helpers *helpers, const char *volume, int fd, struct cancel *cancel,
             struct api_summary *ret_summary, struct fail *why)
{
    bool may_be_cut = false;
    struct tar_scan *scan cleanup_tar_scan = tar_scan_new(note_depth, &may_be_cut);
    if (!scan)
        return fail_errno(why, ENOMEM, "volume %s", volume);
    struct receiver receiver = {.fd = fd, .scan = scan};
    int r = stream(helpers, volume, &receiver, cancel, why);
    if (r < 0)
        return fail_prefix(why, r, "reading volume %s", volume);
    struct api_summary summary = {
        .bytes = receiver.bytes, .members = tar_scan_count(scan), .may_be_cut = may_be_cut};
    tar_scan_newest(scan, &summary.newest_s, &summary.newest_ns);
    *ret_summary = summary;
    return 0;
}

int api_list(struct helpers *helpers, const char *volume, tar_scan_fn *fn, void *data,
             struct cancel *cancel, struct fail *why)
{
    struct tar_scan *scan cleanup_tar_scan = tar_scan_new(fn, data);
    if (!scan)
        return fail_errno(why, ENOMEM, "volume %s", volume);
    struct receiver receiver = {.fd = -1, .scan = scan};
    return stream(helpers, volume, &receiver, cancel, why);
}

struct sender {
    struct tar_convert *convert;
    void (*sent)(void *data, size_t bytes);
    void *data;
    bool begun;
};

static ssize_t send_piece(void *data, void *bytes, size_t max_bytes, struct fail *why)
{
    struct sender *sender = data;
    sender->begun = true;
    ssize_t n = tar_convert_read(sender->convert, bytes, max_bytes, why);
    if (n > 0 && sender->sent)
        sender->sent(sender->data, (size_t)n);
    return n;
}

int api_write(struct helpers *helpers, const char *volume, int fd,
              void (*sent)(void *data, size_t bytes), void *data, struct cancel *cancel,
              bool *ret_begun, struct fail *why)
{
    *ret_begun = false;
    struct tar_convert *convert cleanup_tar_convert = NULL;
    int r = tar_convert_open(fd, HELPER_PREFIX, TAR_CONVERT_TO_UNPACK, &convert, why);
    if (r < 0)
        return r;
    struct helper *helper cleanup_helper = NULL;
    r = helper_open(helpers, &(struct helper_conf){.volume = volume, .writable = true}, cancel,
                    &helper, why);
    if (r < 0)
        return r;
    struct sender sender = {.convert = convert, .sent = sent, .data = data};
    r = engine_archive_put(helper_engine(helper), helper_container(helper), "/", send_piece,
                           &sender, NULL, why);
    *ret_begun = sender.begun;
    return r < 0 ? fail_prefix(why, r, "writing volume %s", volume) : 0;
}
