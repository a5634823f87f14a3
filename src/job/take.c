/* SPDX-License-Identifier: MIT */
#include "job/take.h"

#include "base/fd.h"
#include "base/log.h"
#include "job/again.h"
#include "job/catalog.h"
#include "job/keys.h"
#include "job/members.h"
#include "job/pack.h"
#include "tar/header.h"
#include "tar/layout.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

/* What is taken over of the earlier one. */
enum trust {
    TRUST_ITS_INDEX, /* what that says is there; whether it is whole is seen when it is packed */
    TRUST_WHAT_IS_WHOLE, /* what has been read, because something was damaged */
    TRUST_NOTHING,
};

struct taking {
    const struct take_conf *conf;
    enum trust trust;
    struct cancel *cancel;
    struct frames *frames;
    struct pack_frame *known; /* of each frame */
    struct earlier *earlier;
    struct pack_result packed;

    /* Of a volume's files: */
    struct now_archive *archive;
    const struct layout *layout;
    struct file_time moment; /* files changed since are not to be trusted */

    /* Of a tar in a file: */
    int fd;
    struct members *members;
};

static void taking_done(struct taking *taking)
{
    members_free(taking->members);
    earlier_close(taking->earlier);
    now_archive_free(taking->archive);
    frames_free(taking->frames);
    free(taking->known);
}

static int no_memory(const struct take_conf *conf, struct fail *why)
{
    return fail_errno(why, ENOMEM, "%s/snapshots/%s", conf->volume, conf->name);
}

/* Before the work is done; that nobody else makes one meanwhile is for store_publish. */
int take_check_absent(const struct take_conf *conf, struct fail *why)
{
    struct stat st;
    int r = store_stat(conf->store, conf->volume, conf->name, &st);
    if (r == 0)
        return fail_set(why, EEXIST, "volume %s has a snapshot %s already", conf->volume,
                        conf->name);
    return r == -ENOENT ? 0 : fail_errno(why, -r, "snapshot %s", conf->name);
}

/* ---- the two files ------------------------------------------------------------------------ */

/* Tells the index which of the archive's frames the next snapshot may take over. */
static int add_keys(const struct taking *taking, const struct seekable *seekable,
                    struct index_writer *writer, struct fail *why)
{
    uint64_t number = 0;
    int r = 0;
    for (size_t i = 0; i < seekable_count(seekable) && r == 0; i++) {
        struct seekable_frame frame;
        seekable_frame(seekable, i, &frame);
        if (frame.bytes == 0)
            continue;
        const struct pack_frame *known = &taking->known[number];
        uint8_t packed[INDEX_KEY_BYTES];
        frame_key_pack(known->key, number, &frame, known->stored, packed);
        if (known->has_key)
            r = index_add_frame(writer, number, packed, why);
        number++;
    }
    return r;
}

/* The index with its entries; catalog: of a volume's files. */
static int index_entries(struct taking *taking, struct catalog *catalog, const char *path,
                         struct index_writer **ret_writer, struct fail *why)
{
    if (catalog)
        return catalog_end(catalog, ret_writer, why);
    int r = index_writer_new(path, ret_writer, why);
    return r < 0 ? r : members_write(taking->members, *ret_writer, why);
}

/* The rest: what is known of the archive as it was packed. */
static int end_index(const struct taking *taking, const struct seekable *seekable,
                     struct index_writer *writer, struct fail *why)
{
    int r = taking->known ? add_keys(taking, seekable, writer, why) : 0;
    if (r < 0)
        return r;
    struct index_about about = {.archive_bytes = taking->packed.file_bytes,
                                .seal = seekable_seal(seekable),
                                .taken_s = taking->conf->taken_s};
    memcpy(about.sha256, taking->packed.sha256, sizeof(about.sha256));
    (void)strncpy(about.consistency, taking->conf->consistency, sizeof(about.consistency) - 1);
    return index_finish(writer, &about, why);
}

static int write_index(struct taking *taking, struct catalog *catalog,
                       const struct store_new *archive, const struct store_new *index,
                       struct fail *why)
{
    struct seekable *seekable cleanup_seekable = NULL;
    struct index_writer *writer cleanup_index_writer = NULL;
    int r = seekable_open(archive->fd, &seekable, why);
    if (r == 0)
        r = index_entries(taking, catalog, index->path, &writer, why);
    return r < 0 ? r : end_index(taking, seekable, writer, why);
}

/* Whether what was packed can stand; NULL: it always can. */
typedef bool sound_fn(const struct taking *taking);

/* Whether the copy's table is the earlier one's: frames are looked at as they are copied. */
static int check_table(const struct pack *pack, const struct store_new *archive, struct fail *why)
{
    struct seekable *seekable cleanup_seekable = NULL;
    int r = seekable_open(archive->fd, &seekable, NULL);
    if (r == -ENOMEM ||
        (r == 0 && seekable_seal(seekable) == seekable_seal(earlier_seekable(pack->earlier))))
        return r;
    return fail_set(why, EBADMSG, "its table is damaged");
}

/* Both files as the earlier one's, of which all would be taken over; -EBADMSG: it is
 * damaged. */
static int copy_earlier(struct taking *taking, struct pack *pack, const struct store_new *archive,
                        const struct store_new *index, struct fail *why)
{
    const struct take_conf *conf = taking->conf;
    int r = index_copy(snapshot_index(earlier_snapshot(pack->earlier)), index->path, conf->taken_s,
                       conf->consistency, why);
    if (r == 0)
        r = again_run(pack, &taking->packed, why);
    return r < 0 ? r : check_table(pack, archive, why);
}

static int pack_and_index(struct taking *taking, struct pack *pack, sound_fn *is_sound,
                          const struct store_new *archive, const struct store_new *index,
                          struct fail *why)
{
    struct catalog *catalog cleanup_catalog =
        taking->archive ? catalog_begin(taking->archive, index->path, pack->cancel) : NULL;
    if (taking->archive && !catalog)
        return no_memory(taking->conf, why);
    int r = pack_run(pack, &taking->packed, why);
    if (r == 0 && is_sound && !is_sound(taking))
        return -EAGAIN;
    return r < 0 ? r : write_index(taking, catalog, archive, index, why);
}

/* -EBADMSG: the earlier one turned out to be damaged, which is logged. */
static int fill_files(struct taking *taking, struct pack *pack, sound_fn *is_sound,
                      const struct store_new *archive, const struct store_new *index,
                      struct fail *why)
{
    const struct take_conf *conf = taking->conf;
    struct fail reason = FAIL_INIT;
    int r = again_is_same(pack) ? copy_earlier(taking, pack, archive, index, &reason)
                                : pack_and_index(taking, pack, is_sound, archive, index, &reason);
    if (r == -EBADMSG && pack->earlier && conf->log)
        log_event(conf->log, "%s/snapshots/%s: nothing damaged is taken over of %s: %s",
                  conf->volume, conf->name, earlier_name(pack->earlier), fail_text(&reason, r));
    if (r < 0 && why)
        *why = reason;
    return r;
}

static void tell_result(const struct taking *taking, struct take_result *ret_result)
{
    *ret_result = (struct take_result){.bytes = taking->packed.file_bytes,
                                       .shared_bytes = taking->packed.shared_bytes,
                                       .frames = frames_count(taking->frames),
                                       .taken_frames = taking->packed.taken_frames,
                                       .read_bytes = taking->packed.read_bytes};
}

/* -EAGAIN: it would not be sound; -EBADMSG: the earlier one is damaged. */
static int make(struct taking *taking, struct pack *pack, sound_fn *is_sound,
                struct take_result *ret_result, struct fail *why)
{
    const struct take_conf *conf = taking->conf;
    struct store_new archive cleanup_store_new = STORE_NEW_INIT;
    struct store_new index cleanup_store_new = STORE_NEW_INIT;
    int r = store_new_file(conf->store, &archive, why);
    if (r == 0)
        r = store_new_file(conf->store, &index, why);
    if (r < 0)
        return r;
    pack->fd = archive.fd;
    pack->level = conf->level;
    pack->block_bytes = store_block_bytes(conf->store);
    pack->job = conf->job;
    pack->frames = taking->frames;
    r = fill_files(taking, pack, is_sound, &archive, &index, why);
    if (r == 0 && cancel_is_raised(pack->cancel))
        return fail_set(why, EINTR, "interrupted");
    if (r == 0)
        r = store_publish(conf->store, conf->volume, conf->name, &archive, &index, why);
    if (r == 0)
        tell_result(taking, ret_result);
    return r;
}

/* ---- of a volume's files ------------------------------------------------------------------- */

static int plan_frames(struct taking *taking)
{
    struct buf path cleanup_buf;
    buf_init(&path, LAYOUT_HEADER_MAX_BYTES);
    taking->frames = frames_new();
    int r = taking->frames ? 0 : -ENOMEM;
    for (size_t i = 0; i < layout_count(taking->layout) && r == 0; i++) {
        struct layout_slot slot;
        layout_slot(taking->layout, i, &slot);
        buf_clear(&path);
        r = layout_path(taking->layout, i, &path);
        if (r == 0)
            r = frames_add(taking->frames, frames_hash(buf_string(&path), path.len),
                           slot.header_bytes, slot.slot_bytes);
    }
    return r < 0 ? r : frames_finish(taking->frames, TAR_END_BYTES);
}

/* Says of the frame's entries that they are in the archive, without being read. */
static void note_given(const struct taking *taking, const struct frames_frame *frame)
{
    struct layout_slot slot;
    bool found = layout_find(taking->layout, frame->offset, &slot) > 0;
    while (found && slot.offset < frame->offset + frame->bytes) {
        now_archive_note_given(taking->archive, slot.index);
        if (slot.index + 1 == layout_count(taking->layout))
            break;
        layout_slot(taking->layout, slot.index + 1, &slot);
    }
}

/* Whether the earlier one's frame is still what it was. */
static bool is_whole(const struct taking *taking, const struct pack_frame *known)
{
    const void *data;
    uint64_t stored;
    return earlier_read(taking->earlier, known->key, (size_t)known->from, &data, &stored) == 0;
}

static int look_frame_up(const struct taking *taking, struct keys *keys, uint64_t index)
{
    struct pack_frame *known = &taking->known[index];
    struct frames_frame frame;
    frames_frame(taking->frames, index, &frame);
    known->from = -1;
    int r = keys_of(keys, &frame, &known->key);
    if (r <= 0)
        return r;
    known->has_key = true;
    if (taking->earlier)
        known->from = (int32_t)earlier_find(taking->earlier, known->key, frame.bytes);
    if (known->from >= 0 && taking->trust == TRUST_WHAT_IS_WHOLE && !is_whole(taking, known))
        known->from = -1;
    if (known->from >= 0)
        note_given(taking, &frame);
    return 0;
}

/* All of them, before any is read: files that need not be read are not read ahead. */
static int look_frames_up(struct taking *taking, struct cancel *cancel, struct fail *why)
{
    const struct take_conf *conf = taking->conf;
    uint64_t count = frames_count(taking->frames);
    if (count > PACK_MAX_FRAMES)
        return fail_set(why, EFBIG, "volume %s is too large to be kept", conf->volume);
    struct keys *keys cleanup_keys =
        keys_new(taking->layout, taking->moment, conf->level, store_block_bytes(conf->store));
    taking->known = calloc(count + 1, sizeof(*taking->known));
    int r = keys && taking->known ? 0 : -ENOMEM;
    for (uint64_t i = 0; i < count && r == 0; i++)
        r = cancel_is_raised(cancel) ? -EINTR : look_frame_up(taking, keys, i);
    return r < 0 ? fail_errno(why, -r, "volume %s", conf->volume) : 0;
}

static int read_all(const struct taking *taking, const struct frames_frame *frame, void *buf,
                    struct fail *why)
{
    ssize_t n = now_archive_read(taking->archive, buf, (size_t)frame->bytes, frame->offset,
                                 taking->cancel, why);
    if (n < 0)
        return (int)n;
    return (uint64_t)n == frame->bytes ? 0 : fail_set(why, EIO, "the archive is cut short");
}

/* A file that was gone, or shorter, may be as it was again, and its ctime as well. */
static bool is_affected(const struct taking *taking, const struct frames_frame *frame)
{
    struct layout_slot slot;
    bool found = layout_find(taking->layout, frame->offset, &slot) > 0;
    while (found && slot.offset < frame->offset + frame->bytes) {
        if (now_archive_is_affected(taking->archive, slot.index))
            return true;
        if (slot.index + 1 == layout_count(taking->layout))
            break;
        layout_slot(taking->layout, slot.index + 1, &slot);
    }
    return false;
}

/* Of struct pack. */
static int read_frame(void *data, uint64_t index, const struct frames_frame *frame, void *buf,
                      struct fail *why)
{
    const struct taking *taking = data;
    int r = read_all(taking, frame, buf, why);
    if (r == 0 && is_affected(taking, frame))
        taking->known[index].has_key = false;
    return r;
}

/* Whether no link that was taken over leads to a file that has gone since: such an
 * archive could not be unpacked. */
static bool has_all_targets(const struct taking *taking)
{
    for (size_t i = 0; i < layout_count(taking->layout); i++) {
        struct layout_slot slot;
        layout_slot(taking->layout, i, &slot);
        if (slot.link_to != i && now_archive_is_missing(taking->archive, slot.link_to) &&
            !now_archive_is_missing(taking->archive, i))
            return false;
    }
    return true;
}

/* The moment, less what may be under way. */
static int sync_contents(struct taking *taking, struct contents *contents, struct cancel *cancel,
                         struct fail *why)
{
    struct file_time moment = {0};
    int r = contents_sync(contents, cancel, &moment.s, &moment.ns);
    if (r == -ETIMEDOUT) { /* a slow disk: nothing is settled then */
        moment = (struct file_time){.s = INT64_MIN};
        r = 0;
    }
    if (r < 0)
        return fail_errno(why, -r, "volume %s", taking->conf->volume);
    if (moment.s >= INT64_MIN + TAKE_RECENT_MS / 1000)
        moment.s -= TAKE_RECENT_MS / 1000;
    taking->moment = moment;
    return 0;
}

static int lay_out(struct taking *taking, struct contents *contents, struct cancel *cancel,
                   struct fail *why)
{
    const struct take_conf *conf = taking->conf;
    char name[NAME_MAX + 1];
    (void)snprintf(name, sizeof(name), "%s.tar.zst", conf->name);
    struct now_archive_conf of = {.log = conf->log, .volume = conf->volume, .name = name};
    int r = sync_contents(taking, contents, cancel, why);
    if (r == 0)
        r = now_archive_of(contents, &of, cancel, &taking->archive, why);
    if (r < 0)
        return r;
    now_archive_wait_for_writes(taking->archive);
    taking->layout = now_archive_layout(taking->archive);
    job_set_total(conf->job, layout_bytes(taking->layout));
    r = plan_frames(taking);
    return r < 0 ? fail_errno(why, -r, "volume %s", conf->volume) : 0;
}

static int take_once(const struct take_conf *conf, struct contents *contents, enum trust trust,
                     struct cancel *cancel, struct take_result *ret_result, struct fail *why)
{
    struct taking taking cleanup(taking_done) = {
        .conf = conf, .trust = trust, .cancel = cancel, .fd = -1};
    conf->job->done_bytes = 0; /* it may be the second try */
    int r = lay_out(&taking, contents, cancel, why);
    if (r == 0 && trust != TRUST_NOTHING)
        r = earlier_open(conf->store, conf->volume, conf->cache, &taking.earlier, why);
    if (r == 0)
        r = look_frames_up(&taking, cancel, why);
    if (r < 0)
        return r;
    struct pack pack = {.known = taking.known,
                        .earlier = taking.earlier,
                        .read = read_frame,
                        .data = &taking,
                        .cancel = cancel};
    return make(&taking, &pack, has_all_targets, ret_result, why);
}

int take_contents(const struct take_conf *conf, struct contents *contents, struct cancel *cancel,
                  struct take_result *ret_result, struct fail *why)
{
    int r = take_check_absent(conf, why);
    if (r < 0)
        return r;
    r = take_once(conf, contents, TRUST_ITS_INDEX, cancel, ret_result, why);
    if (r == -EBADMSG)
        r = take_once(conf, contents, TRUST_WHAT_IS_WHOLE, cancel, ret_result, why);
    if (r == -EBADMSG || r == -EAGAIN)
        r = take_once(conf, contents, TRUST_NOTHING, cancel, ret_result, why);
    return r;
}

/* ---- of a tar ------------------------------------------------------------------------------- */

/* Of struct pack. */
static int read_tar(void *data, uint64_t index, const struct frames_frame *frame, void *buf,
                    struct fail *why)
{
    const struct taking *taking = data;
    (void)index;
    ssize_t n = fd_pread_full(taking->fd, buf, (size_t)frame->bytes, frame->offset);
    if (n < 0)
        return fail_errno(why, (int)-n, "reading the spool");
    return (uint64_t)n == frame->bytes ? 0 : fail_set(why, EIO, "the spool file is cut short");
}

int take_tar(const struct take_conf *conf, int fd, struct cancel *cancel,
             struct take_result *ret_result, struct fail *why)
{
    struct taking taking cleanup(taking_done) = {.conf = conf, .cancel = cancel, .fd = fd};
    struct stat st = {0};
    int r = take_check_absent(conf, why);
    if (r == 0 && fstat(fd, &st) < 0)
        r = fail_errno(why, errno, "the spool");
    if (r < 0)
        return r;
    taking.frames = frames_new();
    if (!taking.frames)
        return no_memory(conf, why);
    r = members_read(fd, (uint64_t)st.st_size, taking.frames, NULL, cancel, &taking.members, why);
    if (r < 0)
        return r;
    struct pack pack = {.read = read_tar, .data = &taking, .cancel = cancel};
    return make(&taking, &pack, NULL, ret_result, why);
}
