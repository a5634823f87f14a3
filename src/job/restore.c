/* SPDX-License-Identifier: MIT */
#include "job/restore.h"

#include "tar/check.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* A file takes whole blocks and some metadata; directories, links and small
 * files take one block each on the usual file systems. */
#define BYTES_PER_MEMBER 4096
/* Of a member in a tar: pax records, the header, half a block of padding. */
#define HEADER_BYTES 1792

static bool has_suffix(const char *name, const char *suffix)
{
    size_t len = strlen(name), end = strlen(suffix);
    return len > end && strcmp(name + len - end, suffix) == 0;
}

static bool has_one_of(const char *name, const char *const *suffixes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (has_suffix(name, suffixes[i]))
            return true;
    return false;
}

#define HAS_ONE_OF(name, suffixes)                                                                 \
    has_one_of(name, suffixes, sizeof(suffixes) / sizeof(*(suffixes)))

bool restore_is_archive_name(const char *name)
{
    static const char *const suffixes[] = {".tar",    ".tar.gz", ".tgz",     ".tar.zst", ".tzst",
                                           ".tar.xz", ".txz",    ".tar.bz2", ".tbz2"};
    return name[0] != '.' && HAS_ONE_OF(name, suffixes);
}

bool restore_is_temporary_name(const char *name)
{
    static const char *const suffixes[] = {"~",    ".part",     ".partial",
                                           ".tmp", ".filepart", ".crdownload"};
    return name[0] == '.' || HAS_ONE_OF(name, suffixes);
}

/* ---- the steps ------------------------------------------------------------ */

static int check_room(const char *volume, const struct tar_check *check, uint64_t free_bytes,
                      uint64_t free_inodes, struct fail *why)
{
    uint64_t members = tar_check_members(check);
    uint64_t need = tar_check_data_bytes(check);
    uint64_t overhead = members * BYTES_PER_MEMBER;
    if (need > free_bytes || overhead > free_bytes - need)
        return fail_set(why, ENOSPC,
                        "no room for volume %s: the archive needs %" PRIu64 " bytes and %" PRIu64
                        " are free",
                        volume, need + overhead, free_bytes);
    if (members > free_inodes)
        return fail_set(why, ENOSPC,
                        "no room for volume %s: the archive has %" PRIu64 " members and %" PRIu64
                        " inodes are free",
                        volume, members, free_inodes);
    return 0;
}

static int compare(void *data, const char *name, mode_t mode, struct fail *why)
{
    return tar_check_against(data, name, mode, why);
}

static int check_all(struct volumes *volumes, const struct restore_request *request,
                     struct cancel *cancel, struct tar_check **ret_check, struct fail *why)
{
    uint64_t free_bytes = UINT64_MAX, free_inodes = UINT64_MAX;
    int r = volumes_room(volumes, request->volume, &free_bytes, &free_inodes, cancel, why);
    if (r < 0 && r != -ENOTSUP)
        return r;
    struct tar_check *check cleanup_tar_check = NULL;
    r = tar_check_run(request->fd, free_bytes, cancel, &check, why);
    if (r == 0)
        r = volumes_check_unused(volumes, request->volume, cancel, why);
    if (r == 0)
        r = check_room(request->volume, check, free_bytes, free_inodes, why);
    if (r == 0)
        r = volumes_list(volumes, request->volume, compare, check, cancel, why);
    if (r == 0)
        *ret_check = take(check);
    return r;
}

/* Of volumes_write. */
static void note_sent(void *data, size_t bytes)
{
    job_add_done(data, bytes);
}

/* What the engine will be sent; headers are longer for few. */
static uint64_t bytes_to_send(const struct tar_check *check)
{
    return tar_check_data_bytes(check) + tar_check_members(check) * HEADER_BYTES;
}

static int check_and_write(struct volumes *volumes, const struct restore_request *request,
                           struct job *job, struct cancel *cancel, struct tar_check **ret_check,
                           bool *ret_begun, struct fail *why)
{
    int r = check_all(volumes, request, cancel, ret_check, why);
    if (r < 0)
        return r;
    job_set_total(job, bytes_to_send(*ret_check));
    if (cancel_is_raised(cancel))
        return fail_set(why, EINTR, "interrupted");
    /* Again: what was checked since may have taken long. */
    r = volumes_check_unused(volumes, request->volume, cancel, why);
    if (r < 0)
        return r;
    return volumes_write(volumes, request->volume, request->fd, note_sent, job, cancel, ret_begun,
                         why);
}

static int run(struct volumes *volumes, const struct restore_request *request,
               struct cancel *cancel, struct tar_check **ret_check, bool *ret_begun,
               struct fail *why)
{
    *ret_begun = false;
    int r = turn_take(request->turn, cancel);
    if (r < 0)
        return fail_set(why, -r, "interrupted");
    struct job job;
    job_begin(&job, request->jobs, "restore", request->volume, request->name);
    r = check_and_write(volumes, request, &job, cancel, ret_check, ret_begun, why);
    job_end(&job);
    turn_give_back(request->turn);
    return r;
}

/* ---- the receipt ----------------------------------------------------------- */

static const char *advice(int r)
{
    switch (-r) {
    case EBUSY:
        return "Stop the container (docker stop), copy the archive again, start it again.";
    case EILSEQ:
    case EINVAL:
        return "Look at the archive with: tar tvf ARCHIVE.  If it was cut off, copy it anew.";
    case EPERM:
        return "Members must stay within the volume.  Made from inside: tar -C DIR -cf x.tar .";
    case EISDIR:
    case ENOTDIR:
        return "Remove what is in the way from the volume, or restore into an empty volume.";
    case ENOSPC:
        return "Make room where the engine keeps its volumes.";
    case EHOSTDOWN:
    case ETIMEDOUT:
        return "See that the engine runs (docker info), then copy the archive again.";
    case EINTR:
        return "Copy the archive again.";
    default:
        return "See .dvolfs/log; then copy the archive again.";
    }
}

static void format_now(char *text, size_t room)
{
    time_t now = time(NULL);
    struct tm tm;
    (void)gmtime_r(&now, &tm);
    (void)strftime(text, room, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

static int write_success(struct buf *out, const struct restore_request *request,
                         const struct tar_check *check)
{
    char now[32];
    char left_out[100] = "";
    format_now(now, sizeof(now));
    if (tar_check_left_out(check) > 0)
        (void)snprintf(left_out, sizeof(left_out),
                       "without: %" PRIu64 " attributes of kinds that files have elsewhere\n",
                       tar_check_left_out(check));
    return buf_printf(out,
                      "restored\n"
                      "volume:  %s\narchive: %s\nmembers: %" PRIu64 "\ndata:    %" PRIu64
                      " bytes\nroot:    %s\n%sat:      %s\n"
                      "The archive was unpacked over the volume; this text took its place.\n",
                      request->volume, request->name, tar_check_members(check),
                      tar_check_data_bytes(check),
                      tar_check_has_root(check) ? "owner, mode and time set from the archive"
                                                : "not in the archive, left as it was",
                      left_out, now);
}

static int write_refusal(struct buf *out, const struct restore_request *request, int r, bool begun,
                         const struct fail *why)
{
    char now[32];
    format_now(now, sizeof(now));
    return buf_printf(out,
                      "%s\n"
                      "volume:  %s\narchive: %s\nreason:  %s\nat:      %s\n%s\n%s\n",
                      begun ? "FAILED" : "refused", request->volume, request->name,
                      fail_text(why, r), now,
                      begun ? "The engine failed while it unpacked: the volume may hold a part of "
                              "the archive, directories without their default ACLs."
                            : "The volume is as it was.",
                      advice(r));
}

int restore_run(struct volumes *volumes, const struct restore_request *request,
                struct cancel *cancel, struct buf *receipt, struct fail *why)
{
    struct fail own = FAIL_INIT;
    if (!why)
        why = &own;
    struct tar_check *check cleanup_tar_check = NULL;
    bool begun;
    int r = run(volumes, request, cancel, &check, &begun, why);
    int w = r == 0 ? write_success(receipt, request, check)
                   : write_refusal(receipt, request, r, begun, why);
    (void)w; /* best effort */
    return r;
}
