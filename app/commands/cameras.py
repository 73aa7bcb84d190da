"""`cameras`: which cameras are there, by the names that the configuration takes."""

from __future__ import annotations

from app.commands.options import JsonOption


def command(as_json: JsonOption = False) -> None:
    """List the iniVation and V4L2 cameras of this machine; docs/cameras.md tells how to configure each."""
    import json
    from dataclasses import asdict

    from app.doctor import event_cameras, video_cameras
    from app.sensors import discovery

    findings = {"event_cameras": event_cameras(), "video_cameras": video_cameras()}
    events = discovery.event_cameras() if findings["event_cameras"].ok else []
    videos = discovery.video_devices()
    if as_json:
        remedies = {name: finding.remedy for name, finding in findings.items() if not finding.ok}
        print(json.dumps({"event_cameras": events, "video_cameras": list(map(asdict, videos)), "remedies": remedies}))
        return
    for name in events:
        print(f"event camera  {name:24} event_camera: {{device: {name}}}")
    for video in videos:
        named = f"{video.name or 'video device'}{'' if video.usable else ' (not yours to open)'}"
        print(f"RGB camera    {named:24} rgb_camera: {{device: {video.path}}}")
    for finding in findings.values():
        if not finding.ok:
            print(f"{finding.name}: {finding.found}; {finding.remedy}")
