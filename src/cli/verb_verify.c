/* SPDX-License-Identifier: MIT
 *
 * keepmap verify: header slots, journal and every page against their checksums. Findings are printed as they are found;
 * a map can have more of them than fit into memory.
 */
#include <inttypes.h>
#include <stdio.h>

#include "command.h"
#include "json.h"
#include "progress.h"

struct verification {
    const struct cli_command *command;
    struct cli_json json;
    struct cli_progress progress;
    uint64_t size;     /* of the data: the last page may be shorter */
    uint64_t findings; /* damage; that a page was changed since the last seal is none */
};

/** Last byte of a page of the data. */
static uint64_t last_byte(const struct verification *verification, const struct km_finding *finding) {
    const uint64_t rest = verification->size > finding->offset ? verification->size - finding->offset : KM_PAGE_SIZE;
    return finding->offset + (rest < KM_PAGE_SIZE ? rest : KM_PAGE_SIZE) - 1;
}

static void print_finding_json(struct verification *verification, const struct km_finding *finding) {
    struct cli_json *json = &verification->json;
    const bool changed = finding->error == KM_ECHANGED, page = finding->error == KM_ECORRUPT || changed;
    const bool slot = finding->error == KM_EHEADER;
    cli_json_open(json, NULL, '{');
    cli_json_string(json, "kind", changed ? "changed" : page ? "page" : slot ? "header" : "journal");
    cli_json_string(json, "error", km_error_name(finding->error));
    if (page) {
        cli_json_number(json, "page", finding->page);
        cli_json_number(json, "first_byte", finding->offset);
        cli_json_number(json, "last_byte", last_byte(verification, finding));
        cli_json_hex(json, "stored_checksum", finding->expected, 8);
        cli_json_hex(json, "found_checksum", finding->found, 8);
    } else {
        if (slot)
            cli_json_string(json, "slot", finding->page == 0 ? "A" : "B");
        else
            cli_json_number(json, "generation", finding->generation);
        cli_json_number(json, "file_offset", finding->offset);
    }
    cli_json_string(json, "message", finding->message ? finding->message : km_error_message(finding->error));
    cli_json_close(json, '}');
}

static void print_finding_words(const struct verification *verification, const struct km_finding *finding) {
    const char *message = finding->message ? finding->message : km_error_message(finding->error);
    if (finding->error == KM_ECORRUPT)
        printf("page %" PRIu64 " is damaged: bytes %" PRIu64 " to %" PRIu64 " of the data, stored checksum %08" PRIx32
               ", found %08" PRIx32 "\n",
               finding->page, finding->offset, last_byte(verification, finding), finding->expected, finding->found);
    else if (finding->error == KM_ECHANGED)
        printf("page %" PRIu64 " was changed since the last seal, or during it: bytes %" PRIu64 " to %" PRIu64
               " of the data\n",
               finding->page, finding->offset, last_byte(verification, finding));
    else if (finding->error == KM_EHEADER)
        printf("%s\n", message);
    else
        printf("%s (byte %" PRIu64 " of the file)\n", message, finding->offset);
}

/** Called by km_verify(). Not 0, which ends it, when standard output cannot be written any more. */
static int on_progress(void *context, uint64_t done, uint64_t total, const struct km_finding *finding) {
    struct verification *verification = context;
    if (finding == NULL) {
        cli_progress_update(&verification->progress, done, total);
        return 0;
    }
    const bool damage = finding->error != KM_ECHANGED;
    verification->findings += damage;
    if (!damage && verification->command->quiet && !verification->command->json)
        return 0;
    cli_progress_clear(&verification->progress);
    if (verification->command->json)
        print_finding_json(verification, finding);
    else
        print_finding_words(verification, finding);
    return ferror(stdout) != 0;
}

static void print_summary_json(struct verification *verification, const struct km_report *report, bool complete,
                               bool sound) {
    struct cli_json *json = &verification->json;
    cli_json_close(json, ']');
    cli_json_bool(json, "complete", complete);
    if (complete) {
        cli_json_bool(json, "sound", sound);
        cli_json_number(json, "pages", report->pages);
        cli_json_number(json, "pages_checked", report->pages_checked);
        cli_json_number(json, "pages_damaged", report->pages_damaged);
        cli_json_number(json, "pages_changed", report->pages_changed);
        cli_json_number(json, "frames", report->frames);
        cli_json_number(json, "frames_damaged", report->frames_damaged);
        cli_json_number(json, "headers_damaged", report->headers_damaged);
        cli_json_number(json, "generation", report->generation);
        cli_json_hex(json, "digest", report->digest, 16);
        cli_json_bool(json, "digest_matches", report->digest_matches != 0);
    }
    cli_json_close(json, '}');
}

static const char *plural(uint64_t count) {
    return count == 1 ? "" : "s";
}

static void print_verdict(const struct cli_command *command, const struct km_info *info, const struct km_report *report,
                          bool sound) {
    if (sound)
        printf("%s is sound: generation %" PRIu64 ", %" PRIu64 " page%s, ", command->shown, report->generation,
               report->pages, plural(report->pages));
    else
        printf("%s is DAMAGED: %" PRIu64 " of %" PRIu64 " pages, ", command->shown, report->pages_damaged,
               report->pages);
    if (info->mode == KM_TRANSACTIONAL) {
        const uint64_t frames = sound ? report->frames : report->frames_damaged;
        printf("%" PRIu64 " commit%s in the journal, ", frames, plural(frames));
    }
    if (sound)
        printf("both header slots\n");
    else
        printf("%" PRIu64 " of 2 header slots%s\n", report->headers_damaged,
               report->digest_matches ? "" : ", the digest of the whole map");
    if (report->pages_changed > 0)
        printf("%" PRIu64
               " page%s changed since the last seal, or during it, which is no damage: 'keepmap sync' seals\n",
               report->pages_changed, report->pages_changed == 1 ? " was" : "s were");
}

static void print_summary_words(const struct cli_command *command, const struct km_info *info,
                                const struct km_report *report, bool sound) {
    if (sound && command->quiet)
        return;
    print_verdict(command, info, report, sound);
    if (info->checksum == KM_CHECKSUM_NONE)
        printf("it has no page checksums: damage inside the data is not found\n");
    if (sound)
        return;
    if (report->pages_damaged == 0 && report->frames_damaged == 0 && report->digest_matches)
        printf("what to do: nothing is lost, the next to open it for writing makes the header slot good again\n");
    else
        printf("what to do: restore it from a copy, or read what is not named here and check it yourself\n");
}

static int verify(struct cli_command *command, km_map *map) {
    struct km_info info = {.struct_size = sizeof info};
    int error = km_get_info(map, &info);
    if (error)
        return cli_fail(command, error);
    struct verification verification = {.command = command, .size = info.size};
    cli_progress_start(&verification.progress, "verify", !command->quiet);
    if (command->json) {
        verification.json = cli_json_start(command->target);
        cli_json_open(&verification.json, "findings", '[');
    }
    struct km_report report = {.struct_size = sizeof report};
    error = km_verify(map, &report, on_progress, &verification);
    cli_progress_clear(&verification.progress);
    int status = CLI_DONE;
    if (error == KM_ECANCELED && ferror(stdout))
        status = CLI_SYSTEM; /* said when standard output is closed */
    else if (error)
        status = cli_fail(command, error);
    const bool sound = verification.findings == 0 && report.pages_damaged == 0 && report.frames_damaged == 0 &&
                       report.headers_damaged == 0 && report.digest_matches;
    if (command->json)
        print_summary_json(&verification, &report, error == 0, sound);
    else if (error == 0)
        print_summary_words(command, &info, &report, sound);
    return status == CLI_DONE && !sound ? CLI_NO : status;
}

static int run(struct cli_command *command) {
    if (cli_next_option(command) < 0)
        return command->status;
    km_map *map;
    struct km_options options = {.flags = KM_READONLY};
    int status = cli_open(command, &map, &options);
    if (status)
        return status;
    status = verify(command, map);
    return cli_close(command, map, status, "nothing was changed");
}

const struct cli_verb cli_verb_verify = {
    .name = "verify",
    .arguments = "TARGET",
    .argument_count = 1,
    .summary = "check a map against its checksums",
    .description =
        "Check both header slots, every commit in the journal and every page of the data against their checksums,\n"
        "and name what is damaged. Others may go on working meanwhile. Never changes the file. Of a live map, the\n"
        "pages that were changed since its last seal are named, which is no damage.",
    .no = "damage was found",
    .example = "  keepmap verify state.km || echo 'restore it'",
    .run = run,
};
